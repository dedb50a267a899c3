"""A host is lost in the last moments of a migration. The other one keeps its copy stopped, says what it waits for, and
its user decides when that host never comes back."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import unittest

from base import LabCase, run_command, wait_for

ADDRESS = "10.77.0.30"


class Resolve(LabCase):
    def setUp(self):
        self.lost = None
        self.lab.run("redis", "redis", ADDRESS)
        self.client = self.lab.redis_client(ADDRESS, rate=500, preload=4 << 20, load=500)

    def tearDown(self):
        self.come_back()
        for agent in self.lab.agents.values():
            agent.stop()
            agent.start()
        wait_for(lambda: not any(container["state"] in ("migrating", "arriving")
                                 for agent in self.lab.agents.values() for container in agent.containers().values()),
                 "both hosts to settle")
        super().tearDown()

    def migrate_until(self, step):
        """The source's worker stands still at this step. Returns its pid."""
        agent = self.lab.agents["a"]
        agent.stop()
        agent.start(f"{step}:stop")
        source = agent.popen("migrate", "redis", "--to", self.lab.agents["b"].address, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE)
        self.addCleanup(source.communicate)
        self.addCleanup(source.kill)
        return wait_for(lambda: next((pid for pid, state in self.workers("a") if state.startswith("T")), None),
                        "the source's worker to stop")

    def workers(self, host):
        """The children of its agent that are workers: pids and states."""
        listed = run_command(["ps", "-o", "pid=,stat=,args=", "--ppid", self.lab.agents[host].process.pid],
                             check=False).stdout
        return [(int(line.split()[0]), line.split()[1]) for line in listed.splitlines() if line.endswith("worker")]

    def processes(self, host):
        """What runs of its containers."""
        pids = set()
        for file in pathlib.Path("/sys/fs/cgroup").glob(f"**/godwit-{self.lab.name}-{host}/*/cgroup.procs"):
            with contextlib.suppress(OSError):
                pids.update(int(pid) for pid in file.read_text().split())
        return pids

    def lose(self, host):
        """Power and cable."""
        self.lost = host
        workers = [pid for pid, _ in self.workers(host)]
        run_command(["ip", "-n", f"{self.lab.name}-{host}", "link", "set", "uplink", "down"])
        self.lab.agents[host].kill()
        for pid in [*workers, *self.processes(host)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not self.processes(host), "the end of the lost host's processes")

    def come_back(self):
        if self.lost:
            run_command(["ip", "-n", f"{self.lab.name}-{self.lost}", "link", "set", "uplink", "up"])
            self.lab.agents[self.lost].start()
        self.lost = None

    def lose_target_after_the_decision(self):
        worker = self.migrate_until("source.committed")
        self.lose("b")
        os.kill(worker, signal.SIGCONT)

    def lose_source_before_the_decision(self):
        self.migrate_until("source.ready")
        self.client.close()
        self.lose("a")

    def name(self, host):
        return f"{self.lab.name}-{host}"

    def peer(self, host):
        """What the other host calls it: a source knows its target by the address, a target its source by the name."""
        return self.lab.agents["b"].address if host == "b" else self.name("a")

    def cli(self, host, *arguments, status=0):
        done = self.lab.agents[host].cli(*arguments, check=False)
        self.assertEqual(done.returncode, status, done.stderr)
        return done.stdout + done.stderr

    def json(self, host, *arguments):
        return json.loads(self.cli(host, *arguments, "--json"))

    def resolve(self, host, how, status=0):
        """By the name of the other host."""
        other = "b" if host == "a" else "a"
        return self.cli(host, "resolve", "redis", how, "--peer", self.peer(other), status=status)

    def state(self, host):
        return self.lab.agents[host].containers().get("redis", {}).get("state")

    def assert_serves(self):
        self.client.mark()
        wait_for(lambda: self.client.mark()["answered"] > 2, "answers of the container")

    def assert_client_lost_nothing(self):
        self.assert_serves()
        total = self.client.finish()
        self.assertEqual((total["wrong"], total["lost"]), (0, 0))

    def test_source_goes_on_without_its_target(self):
        self.lose_target_after_the_decision()
        known = self.json("a", "migrations")["migrations"][0]
        self.assertEqual((known["container"], known["side"], known["peer"], known["state"], known["waiting"]),
                         ("redis", "source", self.peer("b"), "committed", True))
        self.assertTrue(known["worker_lives"])
        self.assertRegex(self.cli("a", "migrations"),
                         rf"redis +to {self.peer('b')} .*at work +no +committed: waits for {self.peer('b')}")
        inspected = self.json("a", "inspect", "redis")
        self.assertEqual((inspected["container"]["waits_for"], inspected["container"]["processes"]),
                         (self.peer("b"), "held"))
        self.assertRegex(self.cli("a", "inspect", "redis"),
                         rf"it stays stopped here since .*waits for {self.peer('b')} to say that it runs there\n"
                         rf"If {self.peer('b')} never comes back: godwit resolve redis")
        self.assertRegex(self.cli("a", "ps"), rf"migrating \(waits for {self.peer('b')}\)")
        for peer in ([], ["--peer", "c"]):
            told = self.cli("a", "resolve", "redis", "--runs-here", *peer, status=1)
            self.assertRegex(told, r"known: .*committed.*held\n +would be done: it goes on here.*\n +risk: .*two of it")
            self.assertIn(f"--runs-here --peer {self.peer('b')}", told)
            self.assertEqual(self.state("a"), "migrating")
        self.assertIn("goes on here", self.resolve("a", "--runs-here"))
        self.assertEqual(self.state("a"), "running")
        self.assertEqual(self.json("a", "migrations")["migrations"][0]["state"], "resumed")
        self.assert_client_lost_nothing()
        # The lost host learns of it when it comes back after all.
        self.come_back()
        wait_for(lambda: self.state("b") is None, "the target to forget the container")
        self.assertEqual(self.processes("b"), set())
        self.assertEqual(self.json("a", "inspect", "redis")["container"]["incarnation"], 3)

    def test_source_gives_it_up(self):
        self.lose_target_after_the_decision()
        self.assertRegex(self.cli("a", "resolve", "redis", "--gone", status=1), "risk: .*it is lost")
        self.resolve("a", "--gone")
        self.assertEqual((self.lab.agents["a"].containers(), self.processes("a")), ({}, set()))
        self.assertRegex(self.cli("a", "inspect", "redis"), "not on .*\\(any more\\)(.*\n)*.*departed")

    def test_a_worker_of_an_agent_that_was_killed(self):
        """It waits still; the next agent resolves."""
        worker = self.migrate_until("source.committed")
        self.lose("b")
        agent = self.lab.agents["a"]
        # One that is stopped gets SIGHUP when its parent ends (setpgid(2)).
        os.kill(worker, signal.SIGCONT)
        wait_for(lambda: "the target is silent" in agent.log.read_text(), "the worker to ask")
        agent.kill()
        agent.start()
        self.assertTrue(self.json("a", "migrations")["migrations"][0]["worker_lives"])
        self.resolve("a", "--runs-here")
        self.assertFalse(self.json("a", "migrations")["migrations"][0]["worker_lives"])
        self.assert_client_lost_nothing()

    def test_target_lets_it_run_without_its_source(self):
        self.lose_source_before_the_decision()
        known = self.json("b", "migrations")["migrations"][0]
        self.assertEqual((known["side"], known["peer"], known["state"]), ("target", self.name("a"), "may-run"))
        self.assertRegex(self.cli("b", "inspect", "redis"),
                         f"it is held here since .* waits for {self.name('a')} to say whether it runs here")
        self.assertRegex(self.cli("b", "ps"), rf"arriving \(waits for {self.name('a')}\)")
        self.cli("b", "resolve", "redis", "--runs-here", status=1)
        self.resolve("b", "--runs-here")
        self.assertEqual(self.state("b"), "running")
        self.client = self.lab.redis_client(ADDRESS, rate=500, preload=0, load=500)
        self.assert_serves()

    def test_target_removes_it_without_its_source(self):
        self.lose_source_before_the_decision()
        self.resolve("b", "--gone")
        self.assertEqual((self.lab.agents["b"].containers(), self.processes("b")), ({}, set()))
        self.assertEqual(self.json("b", "migrations")["migrations"][0]["state"], "never-ran")
        links = run_command(["ip", "-n", self.name("b"), "-o", "link"]).stdout
        self.assertNotIn("veth", links)

    def test_nothing_to_resolve(self):
        self.assertRegex(self.resolve("a", "--runs-here", status=1), "no migration of it waits for another host's answer")
        self.assertRegex(self.cli("a", "resolve", "other", "--gone", "--peer", "b", status=1), "no such container")
        self.assertRegex(self.cli("a", "inspect", "other", status=1), "no such container")
        for options in ((), ("--gone", "--runs-here")):
            self.cli("a", "resolve", "redis", *options, "--peer", self.peer("b"), status=2)
        # A host that answers is not lost.
        worker = self.migrate_until("source.committed")
        self.assertRegex(self.resolve("a", "--runs-here", status=1), f"{self.peer('b')} answers .*not gone for good")
        os.kill(worker, signal.SIGCONT)
        wait_for(lambda: self.state("a") is None and self.state("b") == "running", "the migration's end")
        self.assert_client_lost_nothing()

    def test_a_record_that_cannot_be_read_is_shown(self):
        broken = self.lab.agents["a"].root / "sessions/0123.source"
        broken.write_bytes(b"x" * 1000)
        self.addCleanup(broken.unlink)
        self.assertRegex(self.cli("a", "migrations"), r"unreadable: .*0123\.source: it is not of a form")
        self.assertRegex(self.json("a", "migrations")["migrations"][0]["unreadable"], r"0123\.source")
        self.assertRegex(self.cli("a", "inspect", "redis"), r"unreadable: .*0123\.source")


if __name__ == "__main__":
    unittest.main()
