"""A container runs at exactly one host, always: fourteen ways in which that was once not so, each on the product itself.

The container counts into a log that all hosts share: a number twice means that two copies ran. The kernel is asked all
the time whether one runs at two hosts.
"""

import os
import signal
import subprocess
import time
import unittest

from base import BUILD, Lab, LabError, wait_for

from counting import Counter, Watch, listing
from lab import PATIENCE_S
from link import cut_way, mend_way
from programs import state_of, workers

SETTLE_S = 3 * PATIENCE_S
DECIDED = "source.committed"


class ExactlyOnce(unittest.TestCase):
    def make(self, hosts=("a", "b"), disks=False, faults=None, extra=(), prepare=None):
        """A new lab, whose container counts at a. `prepare` is called with each agent before it starts."""
        self.doCleanups()
        self.lab = Lab(hosts=hosts, disks=disks, faults=faults)
        self.addCleanup(self.lab.abandon)
        for agent in self.lab.agents.values():
            if prepare:
                prepare(agent)
        self.lab.__enter__()
        self.counter = Counter(self.lab, extra=extra)
        self.watch = Watch(self.lab, [self.counter])
        self.addCleanup(self.watch.close)
        self.counter.run("a")
        wait_for(self.counter.counts, "the container to count")

    def restart(self, host, fault=None):
        self.lab.agents[host].stop()
        self.lab.agents[host].start(fault)

    def begin(self, source, target, *options):
        """Starts a migration."""
        command = self.lab.agents[source].popen("migrate", self.counter.id, "--to", self.lab.agents[target].address,
                                                *options, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.addCleanup(self.end, command)
        return command

    def await_end(self, command, seconds=60):
        """Of the command: its error, of a line at most."""
        try:
            _, error = command.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.fail(f"the migration does not end within {seconds} s; it runs at {self.counter.hosts_running()}")
        self.assertLessEqual(len(error.splitlines()), 1, error)
        return error

    @staticmethod
    def end(command):
        if command.poll() is None:
            command.kill()
        command.communicate()

    def standing(self, host):
        """The worker of this host that stands still at the step where it was ordered to."""
        def find():
            return next((pid for pid in workers(self.lab.name, host) if state_of(pid) == "T"), None)
        return wait_for(find, f"a worker of host {host} to stand still")

    def migrate(self, source, target):
        done = self.lab.agents[source].cli("migrate", self.counter.id, "--to", self.lab.agents[target].address,
                                           check=False)
        self.assertEqual(done.returncode, 0, done.stderr)

    def assert_never_two(self):
        self.counter.log.read()
        self.assertEqual(self.watch.two[:1], [])
        self.assertEqual(self.counter.log.wrong[:1], [])

    def assert_settles(self, *places, timeout=SETTLE_S):
        """It comes to run at one of these hosts, and goes on there. Returns which."""
        def settled():
            place = self.counter.place()
            return place if place in places and self.counter.counts() else None
        place = None
        end = time.monotonic() + timeout
        while place is None and time.monotonic() < end:
            place = settled()
        self.assertIsNotNone(place, f"it runs at {self.counter.hosts_running()}, not at one of {places}; "
                                    f"the agents say {listing(self.lab)}")
        self.assert_never_two()
        return place

    def assert_connected(self):
        self.assertEqual(self.counter.connection_fault(SETTLE_S), "")

    # 1: the source was out of touch while the container went on

    def commit_unheard(self):
        """It was committed to b and runs there. a does not know: nothing of b reaches it."""
        self.make(("a", "b", "c"), faults={"a": f"{DECIDED}:stop"})
        self.begin("a", "b", "--deadline", "5s")
        worker = self.standing("a")
        cut_way(self.lab, "b", "a")
        os.kill(worker, signal.SIGCONT)
        wait_for(lambda: listing(self.lab)["b"].get(self.counter.id) == "running" and self.counter.runs_at("b"),
                 "b to run it", SETTLE_S)
        time.sleep(8)  # the deadline passes, and a asks in vain

    def touch_again(self):
        mend_way(self.lab, "b", "a")
        time.sleep(12)  # more than once an unanswered question is repeated
        self.assert_never_two()

    def test_1_it_came_back_meanwhile(self):
        self.commit_unheard()
        self.migrate("b", "c")
        self.migrate("c", "b")
        self.touch_again()
        self.assert_settles("b")

    def test_1_it_was_made_anew_meanwhile(self):
        self.commit_unheard()
        self.lab.agents["b"].cli("rm", "--force", self.counter.id)
        self.counter.run("b")
        self.touch_again()
        self.assert_settles("b")

    def test_1_it_was_removed_meanwhile(self):
        self.commit_unheard()
        self.lab.agents["b"].cli("rm", "--force", self.counter.id)
        self.touch_again()
        self.assertEqual(self.counter.hosts_running(), [])
        wait_for(lambda: not any(listing(self.lab).values()), "the agents to forget it", SETTLE_S)
        self.restart("a")
        self.counter.run("b")
        time.sleep(2)
        self.assert_settles("b")

    # 2: the replica is lost between the decision and its first instruction

    def decide_and_lose(self, lose):
        self.make(disks=True, faults={"a": f"{DECIDED}:stop"})
        self.begin("a", "b")
        worker = self.standing("a")
        lose()
        os.kill(worker, signal.SIGCONT)

    def test_2_target_worker_dies_after_the_decision(self):
        self.decide_and_lose(lambda: [os.kill(pid, signal.SIGKILL) for pid in workers(self.lab.name, "b")])
        self.assert_settles("a", "b")
        self.assert_connected()

    def test_2_target_host_dies_after_the_decision(self):
        self.decide_and_lose(lambda: self.lab.agents["b"].lose_power())
        time.sleep(2)
        self.lab.agents["b"].reboot()
        self.assert_settles("a", "b")
        self.assert_connected()

    # 3 and 4: something fails at the target after the decision

    def test_3_target_disk_full(self):
        self.make(disks=True, faults={"a": f"{DECIDED}:stop"})
        self.begin("a", "b")
        worker = self.standing("a")
        disk = self.lab.agents["b"].disk
        disk.fill()
        os.kill(worker, signal.SIGCONT)
        time.sleep(5)
        self.assertTrue(self.counter.counts(), "it does not run while the disk is full")
        disk.empty()
        self.assert_settles("b")
        self.assert_connected()

    def test_4_sealed_memory(self):
        # Whether it can be moved or is refused: it lives.
        self.make(extra=("sealed",))
        command = self.begin("a", "b")
        self.await_end(command)
        self.assert_settles("b" if command.returncode == 0 else "a")
        self.assert_connected()

    # 5 and 6: the source's worker dies when its sockets and packets are no longer as a container's are

    def test_5_source_worker_dies_before_the_decision(self):
        for step in ("source.pages", "source.complete", "source.ready"):
            with self.subTest(step=step):
                self.make(faults={"a": f"{step}:kill"})
                self.await_end(self.begin("a", "b"))
                self.assert_settles("a")
                self.assert_connected()

    def test_6_source_worker_dies_after_the_decision(self):
        self.make(faults={"a": f"{DECIDED}:kill"})
        self.await_end(self.begin("a", "b"))
        self.assert_settles("b")
        self.assert_connected()

    # 7: an address that means something else to everybody

    def test_7_wildcard_address(self):
        self.make()
        for address in ("0.0.0.0:7101", "[::]:7101"):
            with self.subTest(address=address):
                status, said = self.start_agent_at(address)
                self.assertNotIn(status, (None, 0), f"it listens at {address}")
                self.assertEqual(len(said.splitlines()), 1, said)
                self.assertIn("--advertise", said)

    def start_agent_at(self, address):
        """Its status, None if it has not ended by itself, and what it said."""
        command = ["nsenter", f"--net=/run/netns/{self.lab.name}-a", BUILD / "tools/godwitd/godwitd", "--name", "x",
                   "--root", self.lab.directory / "x", "--listen", address,
                   "--api", f"unix:{self.lab.directory}/x.sock"]
        (self.lab.directory / "x").mkdir(exist_ok=True)
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=5)
        except subprocess.TimeoutExpired:
            return None, ""
        return done.returncode, done.stderr

    def test_7_advertised_address(self):
        def listen_everywhere(agent):
            agent.listen = "0.0.0.0:7100"
            agent.options = ["--advertise", agent.address]
        self.make(faults={"a": f"{DECIDED}:cut"}, prepare=listen_everywhere)
        self.begin("a", "b", "--deadline", "6s")
        self.assert_settles("b")
        self.assert_connected()

    # 8: a decision that can be read before it is durable, and never comes to be

    def test_8_decision_is_slow_and_fails(self):
        def preload(agent):
            if agent.host == "a":
                agent.environment = {"LD_PRELOAD": str(BUILD / "tests/workloads/slow_sync.so"),
                                     "SLOW_SYNC_ORDER": str(self.lab.directory / "slow"), "SLOW_SYNC_SECONDS": "12"}
        self.make(faults={"a": "source.ready:stop"}, prepare=preload)
        self.begin("a", "b", "--deadline", "5s")
        worker = self.standing("a")
        order = self.lab.directory / "slow"
        order.touch()
        os.kill(worker, signal.SIGCONT)
        wait_for(lambda: not order.exists(), "the decision to be written")
        time.sleep(15)  # the target's deadline passes, it asks, and the disk fails
        self.assert_settles("a", "b")

    # 9: a thread that cannot be stopped

    def test_9_vfork(self):
        self.make(extra=("vfork",))
        place = "a"
        for _ in range(6):
            command = self.begin(place, "b" if place == "a" else "a", "--deadline", "8s")
            self.await_end(command, 8 + PATIENCE_S)
            place = self.assert_settles("a", "b")
            self.assertLess(self.counter.log.take_silence(), 5, "it stood still")
        self.assert_connected()

    # 10: what an agent notes beside the records is not there, or cannot be written

    def note_of(self, host):
        return self.lab.agents[host].root / "containers" / self.counter.id / "status.json"

    def test_10_it_cannot_be_noted_that_it_is_moved(self):
        self.make()
        fresh = self.note_of("a").with_name("status.json.new")
        fresh.mkdir()
        error = self.await_end(self.begin("a", "b"))
        self.assertRegex(error, "migrate count: it cannot be written down that it begins: .*status.json.new")
        self.assert_settles("a")
        fresh.rmdir()
        self.migrate("a", "b")
        self.assert_settles("b")
        self.assert_connected()

    def test_10_the_note_of_the_source_is_damaged(self):
        self.make(faults={"a": f"{DECIDED}:kill-agent"})
        self.begin("a", "b")
        agent = self.lab.agents["a"]
        agent.process.wait(SETTLE_S)
        for pid in workers(self.lab.name, "a"):
            os.kill(pid, signal.SIGKILL)
        self.note_of("a").write_text('{"stage": "runn')
        agent.start()
        self.assert_settles("b")
        wait_for(lambda: not listing(self.lab)["a"], "a to forget it", SETTLE_S)
        self.assert_settles("b")
        self.assert_connected()

    def test_10_the_note_of_the_target_is_damaged(self):
        self.make(faults={"a": f"{DECIDED}:stop"})
        self.begin("a", "b")
        worker = self.standing("a")
        agent = self.lab.agents["b"]
        agent.kill()
        for pid in workers(self.lab.name, "b"):
            os.kill(pid, signal.SIGKILL)
        self.note_of("b").write_bytes(b"")
        agent.start()
        os.kill(worker, signal.SIGCONT)
        self.assert_settles("b")
        wait_for(lambda: not listing(self.lab)["a"], "a to forget it", SETTLE_S)
        self.assert_connected()

    # 11: the agent that lets it run ends between the record and its own note

    def test_11_the_record_is_written_before_the_note(self):
        self.make(faults={"a": f"{DECIDED}:stop", "b": "target.armed:kill"})
        self.begin("a", "b")
        worker = self.standing("a")
        agent = self.lab.agents["b"]
        note = self.note_of("b").with_name("record.json.new")
        os.mkfifo(note)  # the agent stands still where it would write it
        os.kill(worker, signal.SIGCONT)
        record = next((agent.root / "sessions").glob("*.target"))
        wait_for(lambda: record.read_text().split()[1] == "running", "the record to be written", SETTLE_S)
        agent.kill()
        note.unlink()
        agent.start()
        self.assert_settles("b")
        wait_for(lambda: not listing(self.lab)["a"], "a to forget it", SETTLE_S)
        self.assert_connected()

    # 12: a wrong word of the user made two; one is stopped when their hosts see each other again

    def resolve_wrongly(self, host, peer):
        done = self.lab.agents[host].cli("resolve", self.counter.id, "--runs-here", "--peer", peer, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)

    def assert_fenced(self, host, other):
        """The copy of `host` is stopped, and remains so."""
        for way in ((host, other), (other, host)):
            mend_way(self.lab, *way)
        self.restart(host)  # an agent that starts asks at once
        wait_for(lambda: self.counter.hosts_running() == [other], "one of the two to be stopped", SETTLE_S)
        wait_for(lambda: listing(self.lab)[host].get(self.counter.id) == "failed", "it to be called failed", SETTLE_S)
        self.restart(host)
        self.assertEqual(listing(self.lab)[host].get(self.counter.id), "failed")
        self.assertEqual(self.counter.hosts_running(), [other])
        self.lab.agents[host].cli("rm", self.counter.id)
        self.assertEqual(listing(self.lab)[other].get(self.counter.id), "running")

    def cut_both_ways(self):
        cut_way(self.lab, "a", "b")
        cut_way(self.lab, "b", "a")

    def test_12_let_run_at_the_target(self):
        self.make(faults={"a": "source.ready:stop"})
        self.begin("a", "b", "--deadline", "4s")
        worker = self.standing("a")
        self.cut_both_ways()
        wait_for(lambda: not workers(self.lab.name, "b") or "silent" in self.lab.agents["b"].log.read_text(),
                 "b to ask", SETTLE_S)
        self.resolve_wrongly("b", f"{self.lab.name}-a")
        os.kill(worker, signal.SIGCONT)
        wait_for(lambda: sorted(self.counter.hosts_running()) == ["a", "b"], "two of it", SETTLE_S)
        self.assert_fenced("a", "b")

    def test_12_resumed_at_the_source(self):
        self.make(faults={"a": f"{DECIDED}:stop"})
        self.begin("a", "b", "--deadline", "4s")
        worker = self.standing("a")
        cut_way(self.lab, "b", "a")
        os.kill(worker, signal.SIGCONT)
        wait_for(lambda: self.counter.hosts_running() == ["b"], "b to run it", SETTLE_S)
        cut_way(self.lab, "a", "b")
        self.resolve_wrongly("a", self.lab.agents["b"].address)
        wait_for(lambda: sorted(self.counter.hosts_running()) == ["a", "b"], "two of it", SETTLE_S)
        self.assert_fenced("b", "a")

    # 13: an agent that starts under another name finds no cgroup of its containers

    def test_13_another_name(self):
        self.make(faults={"a": "source.pages:stop"})
        self.begin("a", "b")
        worker = self.standing("a")
        agent = self.lab.agents["a"]
        agent.kill()
        os.kill(worker, signal.SIGKILL)
        name, agent.name = agent.name, "another"
        with self.assertRaisesRegex(LabError, f"start as another: .*--name {name}"):
            agent.start()
        agent.name = name
        agent.start()
        self.assert_settles("a")
        self.assert_connected()

    # 14: one damaged record keeps an agent from answering for others

    def test_14_a_damaged_record_beside(self):
        self.make(faults={"a": f"{DECIDED}:stop"})
        self.begin("a", "b")
        worker = self.standing("a")
        (self.lab.agents["b"].root / "sessions/0123.target").write_bytes(b"x" * 1000)
        os.kill(worker, signal.SIGKILL)
        self.assert_settles("b")
        wait_for(lambda: not listing(self.lab)["a"], "a to forget it", SETTLE_S)
        self.assert_connected()

    # 15: a worker in whose hands the container stands still does not get on (a file system that hangs)

    def test_15_a_worker_that_never_ends(self):
        for fault, place in (("source.frozen:stop", "a"), ("source.committed:stop", "b")):
            with self.subTest(fault):
                self.make(faults={"a": fault})
                command = self.begin("a", "b", "--deadline", "3s")
                self.standing("a")
                error = self.await_end(command)
                self.assertEqual(self.assert_settles(place), place)
                if place == "a":
                    self.assertEqual(command.returncode, 1)
                    self.assertIn("had not come to an end 10 s after the deadline", error)
                else:
                    self.assertEqual((command.returncode, error), (0, ""))
                wait_for(lambda: [len(states) for states in listing(self.lab).values()].count(0) == 1,
                         "one host to forget it", SETTLE_S)
                self.assert_connected()

    def test_15_a_worker_of_the_target_that_never_ends(self):
        self.make(faults={"b": "target.complete:stop"})
        command = self.begin("a", "b", "--deadline", "3s")
        self.standing("b")
        self.await_end(command)
        self.assert_settles("a")
        wait_for(lambda: not workers(self.lab.name, "b") and not listing(self.lab)["b"], "nothing to stay at b", SETTLE_S)
        self.assert_connected()


if __name__ == "__main__":
    unittest.main()
