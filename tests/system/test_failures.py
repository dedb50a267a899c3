"""Whatever fails before the commit, at whatever step: the container runs on at the source, its client stays
connected, nothing is lost, the target keeps nothing, and one line says why. After the commit it runs on at the target, and
the client stays connected too."""

import os
import signal
import subprocess
import time
import unittest

from base import LabCase, run_command, wait_for

ADDRESS = "10.77.0.30"
# Where engine/session/fault.h can strike before the commit.
SOURCE_STEPS = ("source.prepare", "source.round0", "source.round0.sent", "source.round", "source.round.sent",
                "source.cutover", "source.frozen", "source.pages", "source.complete", "source.ready")
TARGET_STEPS = ("target.container", "target.round0", "target.round", "target.frozen", "target.complete",
                "target.ready")


class Failures(LabCase):
    def setUp(self):
        self.lab.run("redis", "redis", ADDRESS)
        self.client = self.lab.redis_client(ADDRESS, rate=500, preload=16 << 20, load=500)

    def restart(self, host, fault=None):
        agent = self.lab.agents[host]
        agent.stop()
        agent.start(fault)

    def attempt(self, *options):
        return self.lab.migrate("redis", *options, check=False, timeout=60)

    def assert_runs_on(self, result, expected=None):
        self.assertFalse(result["succeeded"], "the migration went through in spite of the fault")
        self.assertEqual(len(result["error"].splitlines()), 1, result["error"])
        if expected:
            self.assertRegex(result["error"], expected)
        self.client.mark()
        wait_for(self.has_answered, "answers of the container")
        self.assertEqual(self.lab.agents["a"].containers()["redis"]["state"], "running")
        self.assert_target_is_clean()

    def has_answered(self):
        seen = self.client.mark()
        self.assertEqual(seen["wrong"], 0)
        return seen["answered"] > 2

    def assert_target_is_clean(self):
        agent = self.lab.agents["b"]
        wait_for(lambda: not agent.containers(), "the target to forget the container")
        names = run_command(["ip", "-n", f"{self.lab.name}-b", "-o", "link"]).stdout
        self.assertNotIn("veth", names, "the target keeps an interface of the container")

    def finish(self):
        total = self.client.finish()
        self.assertEqual((total["wrong"], total["lost"]), (0, 0))

    def strike(self, host, steps, action, *options, expected=None, restart_after=False):
        for step in steps:
            with self.subTest(step=step, action=action):
                self.restart(host, f"{step}:{action}")
                result = self.attempt(*options)
                if restart_after:
                    self.restart(host)
                self.assert_runs_on(result, expected)
        self.restart(host)
        # And once nothing fails any more it can be moved.
        result = self.lab.migrate("redis", "--verify")
        self.assertTrue(result["verified"], result)
        self.finish()

    def test_target_agent_killed(self):
        self.strike("b", TARGET_STEPS, "kill-agent", expected="the agent of this host ended",
                    restart_after=True)

    def test_target_worker_killed(self):
        self.strike("b", TARGET_STEPS, "kill")

    def test_connection_cut(self):
        self.strike("a", SOURCE_STEPS, "cut")

    def test_target_fails(self):
        self.strike("b", ("target.hello", *TARGET_STEPS), "fail")

    def test_source_fails(self):
        self.strike("a", SOURCE_STEPS, "fail")

    def test_deadline(self):
        self.strike("a", SOURCE_STEPS, "late", "--deadline", "3s", expected="deadline|timed out")

    def test_malformed_messages_from_the_source(self):
        # Garbage after Complete reaches a target that has everything: it asks the source's agent instead, and the
        # migration may go through.
        self.strike("a", SOURCE_STEPS[:-2], "garbage")

    def test_malformed_messages_from_the_target(self):
        self.strike("b", TARGET_STEPS, "garbage")

    def test_source_worker_killed_after_the_decision(self):
        """The container moves, and its frozen remains have taken nothing that was meant for it."""
        self.restart("a", "source.committed:kill")
        self.attempt()
        wait_for(lambda: self.lab.agents["b"].containers().get("redis", {}).get("state") == "running",
                 "the container to run at the target")
        self.client.mark()
        wait_for(self.has_answered, "answers of the container")
        wait_for(lambda: not self.lab.agents["a"].containers(), "the source to remove what remains")
        self.restart("a")
        self.finish()

    def test_cable_pulled(self):
        for step in ("target.round0", "target.round", "target.frozen", "target.complete"):
            with self.subTest(step=step):
                self.restart("b", f"{step}:stop")
                source = self.lab.agents["a"].popen("migrate", "redis", "--to", self.lab.agents["b"].address, "--json",
                                                    "--deadline", "8s", stdout=subprocess.PIPE,
                                                    stderr=subprocess.PIPE)
                worker = wait_for(self.stopped_worker, "the target's worker to stop")
                run_command(["ip", "-n", f"{self.lab.name}-b", "link", "set", "uplink", "down"])
                try:
                    os.kill(worker, signal.SIGCONT)
                    _, error = source.communicate(timeout=60)
                finally:
                    run_command(["ip", "-n", f"{self.lab.name}-b", "link", "set", "uplink", "up"])
                self.assertNotEqual(source.returncode, 0)
                self.assert_runs_on({"succeeded": False, "error": error.strip()})
        self.restart("b")
        self.assertTrue(self.lab.migrate("redis", "--verify")["verified"])
        self.finish()

    def stopped_worker(self, host="b"):
        agent = self.lab.agents[host].process.pid
        children = run_command(["ps", "-o", "pid=,stat=", "--ppid", agent], check=False).stdout
        for line in children.splitlines():
            pid, state = line.split()
            if state.startswith("T"):
                return int(pid)
        return None

    def test_target_refuses_a_name_it_has(self):
        self.lab.agents["b"].cli("run", self.lab.bundle("redis"), "--id", "redis", "--ip", "10.77.0.31/24")
        result = self.attempt()
        self.assertRegex(result["error"], "-b: take the id redis: this host has a container of that name")
        self.lab.agents["b"].cli("rm", "--force", "redis")
        self.assert_runs_on(result)
        self.finish()

    def test_target_out_of_memory(self):
        # All containers of host b share this cgroup: its limit is less than the container needs.
        limit = f"/sys/fs/cgroup/memory/godwit-{self.lab.name}-b"
        os.makedirs(limit, exist_ok=True)
        with open(f"{limit}/memory.limit_in_bytes", "w") as file:
            file.write(str(8 << 20))
        try:
            self.assert_runs_on(self.attempt(), "OOM killer ended it on .*more memory")
        finally:
            with open(f"{limit}/memory.limit_in_bytes", "w") as file:
                file.write("-1")
        self.assertTrue(self.lab.migrate("redis", "--verify")["verified"])
        self.finish()

    def test_container_killed(self):
        # By its user, or for want of memory. It has ended then, at the source, and nothing of it is left at the target.
        for step in ("source.round0.sent", "source.cutover", "source.frozen"):
            with self.subTest(step=step):
                self.restart("a", f"{step}:stop")
                agent = self.lab.agents["a"]
                source = agent.popen("migrate", "redis", "--to", self.lab.agents["b"].address,
                                     stdout=subprocess.PIPE, stderr=subprocess.PIPE)
                worker = wait_for(lambda: self.stopped_worker("a"), "the source's worker to stop")
                os.kill(agent.containers()["redis"]["pid"], signal.SIGKILL)
                os.kill(worker, signal.SIGCONT)
                _, error = source.communicate(timeout=60)
                self.assertNotEqual(source.returncode, 0)
                self.assertEqual(len(error.splitlines()), 1, error)
                wait_for(lambda: agent.containers()["redis"]["state"] == "stopped", "the end of the container")
                self.assert_target_is_clean()
                agent.cli("rm", "redis")
                self.lab.run("redis", "redis", ADDRESS)

    def arrive_unheard(self):
        """The container runs at the target, whose agent stands still and has not heard of it. Returns the command that
        migrates it."""
        self.restart("b", "target.ready:stop")
        agent = self.lab.agents["b"]
        source = self.lab.agents["a"].popen("migrate", "redis", "--to", agent.address, stdout=subprocess.PIPE,
                                            stderr=subprocess.PIPE)
        worker = wait_for(self.stopped_worker, "the target's worker to stop")
        agent.process.send_signal(signal.SIGSTOP)
        self.addCleanup(agent.process.send_signal, signal.SIGCONT)
        os.kill(worker, signal.SIGCONT)
        self.client.mark()
        wait_for(self.has_answered, "answers of the container")
        return source

    def assert_kept(self, source):
        _, error = source.communicate(timeout=60)
        self.assertEqual(source.returncode, 0, error)
        self.assertEqual(self.lab.agents["b"].containers()["redis"]["state"], "running")
        self.assertEqual(self.lab.agents["a"].containers(), {})
        self.lab.where["redis"] = "b"
        self.finish()

    def test_a_slow_agent_at_the_target(self):
        # Whoever hears that the migration is over may ask the target's agent for anything; it knows the container.
        source = self.arrive_unheard()
        time.sleep(1)
        self.assertIsNone(source.poll(), "it was over before the target's agent knew of it")
        self.lab.agents["b"].process.send_signal(signal.SIGCONT)
        self.assert_kept(source)

    def test_target_agent_killed_after_the_commit(self):
        # It cannot say that it keeps the container; its successor does.
        source = self.arrive_unheard()
        self.lab.agents["b"].kill()
        self.lab.agents["b"].start()
        self.assert_kept(source)

    def test_nobody_listens_at_the_target(self):
        self.lab.agents["b"].stop()
        result = self.attempt()
        self.lab.agents["b"].start()
        self.assert_runs_on(result, "godwitd running")
        self.finish()


if __name__ == "__main__":
    unittest.main()
