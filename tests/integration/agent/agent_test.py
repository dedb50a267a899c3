#!/usr/bin/python3
"""godwit and godwitd against each other, on one real host: a container's life, and what the agent remembers of it.

usage: agent_test.py BUILD-DIRECTORY     as root
"""

import errno
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
if __name__ == "__main__" and len(sys.argv) > 1:
    os.environ["GODWIT_BUILD"] = os.path.abspath(sys.argv.pop(1))
sys.path.insert(0, str(ROOT / "tests/lab"))
sys.dont_write_bytecode = True

from lab import Lab, wait_for  # noqa: E402

DONE, FAILED, USAGE, REFUSED, UNREACHABLE = 0, 1, 2, 3, 4
HOSTNAME = ("sh", "-c", "read -r name < /proc/sys/kernel/hostname; echo $name")
COUNTER = ("--", "/bin/sh", "-c", "echo begin; trap 'echo end; exit 7' TERM; while :; do sleep 0.1; done")


class AgentTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.lab = Lab(f"gwagent{os.getpid()}")
        cls.lab.__enter__()
        cls.agent = cls.lab.agents["a"]
        cls.bundle = cls.lab.bundle("shell", *COUNTER)

    @classmethod
    def tearDownClass(cls):
        cls.lab.close()

    def tearDown(self):
        for container in self.agent.containers():
            self.agent.cli("rm", "--force", container)

    def run_one(self, name="one", address="10.77.0.20", *options):
        return self.agent.cli("run", self.bundle, "--id", name, "--ip", f"{address}/24", *options)

    def state(self, name="one"):
        return self.agent.containers()[name]["state"]

    def fails(self, status, pattern, *arguments):
        done = self.agent.cli(*arguments, check=False)
        self.assertEqual(done.returncode, status, done.stderr)
        self.assertRegex(done.stderr, r"^godwit: [^\n]*\n\Z")
        self.assertRegex(done.stderr, pattern)

    def test_life_of_a_container(self):
        self.run_one("one", "10.77.0.20", "--hostname", "uno", "--env", "test", "--group", "g", "--memory-limit",
                     "64MiB", "--cpus", "0.5")
        listed = self.agent.containers()["one"]
        self.assertEqual((listed["state"], listed["hostname"], listed["environment"]), ("running", "uno", "test"))
        self.assertEqual((listed["memory_limit_bytes"], listed["cpu_millis"]), (64 << 20, 500))
        self.assertRegex(listed["mac"], r"^([0-9a-f]{2}:){5}[0-9a-f]{2}$")
        self.assertRegex(self.agent.cli("ps").stdout, r"one +running +10\.77\.0\.20/24 +uno +test +g +64 MiB +0\.5 +\d")
        self.assertEqual(self.agent.cli("exec", "one", "--", *HOSTNAME).stdout, "uno\n")
        self.assertEqual(self.agent.cli("exec", "one", "--", "sh", "-c", "exit 3", check=False).returncode, 3)
        wait_for(lambda: "begin" in self.agent.cli("logs", "one").stdout, "the first line of the log")
        # Nothing listens there, and it is the container that says so.
        knock = "import socket; s = socket.socket(); s.settimeout(5); print(s.connect_ex(('10.77.0.20', 9)))"
        answer = subprocess.run(self.lab.client_command(sys.executable, "-c", knock), capture_output=True, text=True)
        self.assertEqual(int(answer.stdout), errno.ECONNREFUSED, answer.stderr)
        self.fails(FAILED, "it is running", "rm", "one")
        self.assertIn("status 7", self.agent.cli("stop", "one").stdout)
        stopped = self.agent.containers()["one"]
        self.assertEqual((stopped["state"], stopped["exit"]["status"], stopped["pid"]), ("stopped", 7, 0))
        self.assertEqual(self.agent.cli("logs", "one").stdout, "begin\nend\n")
        self.fails(FAILED, "it has stopped", "exec", "one", "--", "true")
        self.agent.cli("rm", "one")
        self.assertEqual(self.agent.containers(), {})
        self.assertEqual(list((self.agent.root / "containers").iterdir()), [])

    def test_logs_are_followed_to_the_end(self):
        self.run_one()
        follower = self.agent.popen("logs", "-f", "one", stdout=subprocess.PIPE)
        self.agent.cli("stop", "one")
        self.assertEqual(follower.communicate(timeout=20)[0], "begin\nend\n")
        self.assertEqual(follower.returncode, DONE)

    def test_output_is_bounded_whatever_becomes_of_the_agent(self):
        """200 MB of numbered lines: under an agent, without one, and under the next one."""
        lines, size = 2_000_000, 100
        gates = {"second": lines // 3, "third": 2 * lines // 3}
        waits = "".join(f' if (i == {line}) {{ fflush(); while (system("test -e /{gate}")) system("sleep 0.1") }}'
                        for gate, line in gates.items())
        program = (f'BEGIN {{ for (i = 0; i < {lines}; ++i) {{ printf "%010d %0{size - 12}d\\n", i, 0;{waits} }}'
                   ' fflush(); while (1) system("sleep 1") }')
        bundle = self.lab.bundle("shell", "--", "/bin/awk", program)
        self.agent.cli("run", bundle, "--id", "loud", "--ip", "10.77.0.20/24")
        log = self.agent.root / "containers/loud/output.log"
        inode = log.stat().st_ino

        def written(line):
            with open(log, "rb") as file:
                file.seek(max(0, log.stat().st_size - size))
                return file.read().startswith(b"%010d " % line)

        def on_disk():
            return log.stat().st_blocks * 512

        bound = 17 << 20
        wait_for(lambda: written(gates["second"]) and on_disk() <= bound, "the first third, and a cut")
        self.agent.kill()
        (pathlib.Path(bundle) / "rootfs/second").touch()
        wait_for(lambda: written(gates["third"]), "the container to write without an agent")
        self.assertGreater(on_disk(), lines // 3 * size)
        self.agent.start()
        wait_for(lambda: on_disk() <= bound, "the next agent to cut what was written without one")
        follower = self.agent.popen("logs", "-f", "loud", stdout=subprocess.PIPE)
        (pathlib.Path(bundle) / "rootfs/third").touch()
        wait_for(lambda: written(lines - 1) and on_disk() <= bound, "the last third, and a cut")
        self.assertEqual(log.stat().st_ino, inode)
        kept = self.agent.cli("logs", "loud").stdout
        self.agent.cli("stop", "loud", "--grace", "1ms")
        followed = follower.communicate(timeout=60)[0]
        for text in (kept, followed):
            self.assertTrue(text.startswith("[older output was dropped]\n..."), text[:100])
            # Behind the last mark nothing is missing.
            whole = text[text.rindex("[older"):].split("\n")[2:-1]
            numbers = [int(line[:10]) for line in whole]
            self.assertEqual(numbers, list(range(numbers[0], lines)))
            self.assertGreater(len(numbers), (7 << 20) // size)

    def test_a_stubborn_container_is_killed(self):
        bundle = self.lab.bundle("shell", "--", "/bin/sh", "-c", "trap '' TERM; while :; do sleep 1; done",)
        self.agent.cli("run", bundle, "--id", "stubborn", "--ip", "10.77.0.21/24")
        began = time.monotonic()
        self.agent.cli("stop", "stubborn", "--grace", "300ms")
        self.assertLess(time.monotonic() - began, 8)
        self.assertEqual(self.agent.containers()["stubborn"]["exit"]["signal"], signal.SIGKILL)

    def test_an_exit_is_recorded(self):
        self.run_one()
        os.kill(self.agent.containers()["one"]["pid"], signal.SIGKILL)
        wait_for(lambda: self.state() == "stopped", "the end of the container to be noticed")
        self.assertEqual(self.agent.containers()["one"]["exit"]["status"], 128 + signal.SIGKILL)

    def test_containers_outlive_the_agent(self):
        for end in (self.agent.stop, self.agent.kill):
            with self.subTest(end=end.__name__):
                self.run_one()
                pid = self.agent.containers()["one"]["pid"]
                end()
                os.kill(pid, 0)
                self.agent.start()
                found = self.agent.containers()["one"]
                self.assertEqual((found["state"], found["pid"]), ("running", pid))
                self.assertEqual(self.agent.cli("exec", "one", "--", *HOSTNAME).stdout, "one\n")
                # Its parent is not this agent any more; its end is noticed all the same.
                self.assertIn("has ended", self.agent.cli("stop", "one").stdout)
                self.assertEqual(self.state(), "stopped")
                self.agent.cli("rm", "one")

    def test_what_runc_has_lost_is_not_dead(self):
        for spoil in ("state.json", ""):
            with self.subTest(lost=spoil or "all of it"):
                self.run_one()
                pid = self.agent.containers()["one"]["pid"]
                self.agent.stop()
                known = self.agent.root / "runc" / "one" / spoil
                known.rename(self.agent.root / "aside")
                self.agent.start()
                found = self.agent.containers()["one"]
                self.assertEqual((found["state"], found["pid"]), ("running", pid), found)
                (self.agent.root / "aside").rename(known)
                self.agent.cli("rm", "--force", "one")

    def test_an_end_that_no_agent_saw(self):
        self.run_one()
        pid = self.agent.containers()["one"]["pid"]
        self.agent.kill()
        os.kill(pid, signal.SIGKILL)
        self.agent.start()
        wait_for(lambda: self.state() == "stopped", "the end of the container to be noticed")
        self.agent.cli("rm", "one")

    def test_refusals_leave_nothing(self):
        missing = self.lab.directory / "no-such-bundle"
        self.fails(USAGE, "config.json", "run", missing, "--id", "x", "--ip", "10.77.0.22/24")
        self.fails(USAGE, "id", "run", self.bundle, "--id", "../x", "--ip", "10.77.0.22/24")
        self.fails(USAGE, "network's", "run", self.bundle, "--id", "x", "--ip", "10.77.0.0/24")
        self.fails(USAGE, "outside", "run", self.bundle, "--id", "x", "--ip", "10.77.0.22/24", "--gateway", "10.1.1.1")
        self.fails(USAGE, "hostname", "run", self.bundle, "--id", "x", "--ip", "10.77.0.22/24", "--hostname", "a_b")
        self.fails(USAGE, "unknown unit", "run", self.bundle, "--id", "x", "--ip", "10.77.0.22/24", "--memory-limit",
                   "5X")
        self.fails(FAILED, "no such container", "stop", "x")
        self.fails(FAILED, "no such container", "logs", "x")
        broken = self.lab.bundle("shell", "--", "/no/such/program")
        self.fails(FAILED, "no such file|not found", "run", broken, "--id", "x", "--ip", "10.77.0.22/24")
        self.run_one()
        self.fails(FAILED, "has a container of that name", "run", self.bundle, "--id", "one", "--ip", "10.77.0.23/24")
        self.fails(FAILED, "the container one has it", "run", self.bundle, "--id", "two", "--ip", "10.77.0.20/24")
        self.assertEqual(list(self.agent.containers()), ["one"])
        self.assertEqual([p.name for p in (self.agent.root / "containers").iterdir()], ["one"])

    def test_groups_do_not_share_a_host(self):
        self.run_one("one", "10.77.0.20", "--group", "g")
        self.fails(FAILED, "anti-affinity", "run", self.bundle, "--id", "two", "--ip", "10.77.0.21/24", "--group", "g")

    def test_groups_do_not_meet_by_a_migration(self):
        other = self.lab.agents["b"]
        self.run_one("one", "10.77.0.20", "--group", "g")
        other.cli("run", self.bundle, "--id", "two", "--ip", "10.77.0.21/24", "--group", "g")
        try:
            for _ in range(20):  # more often than there are places for arrivals
                self.fails(FAILED, "two of the same anti-affinity group is on this host", "migrate", "one", "--to",
                           other.address)
            self.assertEqual([p.name for p in (other.root / "containers").iterdir()], ["two"])
            self.assertEqual(self.state(), "running")
        finally:
            other.cli("rm", "--force", "two")

    def test_the_silent_do_not_keep_migrations_out(self):
        other = self.lab.agents["b"]
        address, port = other.address.split(":")
        crowd = ("import socket, sys\n"
                 f"crowd = [socket.create_connection(('{address}', {port})) for _ in range(100)]\n"
                 "print('here', flush=True)\nsys.stdin.read()")
        self.run_one("one", "10.77.0.20")
        other.cli("run", self.bundle, "--id", "one", "--ip", "10.77.0.21/24")
        silent = subprocess.Popen(self.lab.client_command(sys.executable, "-c", crowd), stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, text=True)
        try:
            self.assertEqual(silent.stdout.readline(), "here\n")
            # The target's answer, not a broken connection.
            self.fails(FAILED, "has a container of that name", "migrate", "one", "--to", other.address)
        finally:
            silent.communicate("")
            other.cli("rm", "--force", "one")

    def test_no_agent(self):
        done = subprocess.run([self.agent_program(), "--api", "unix:/nonexistent/socket", "ps"], capture_output=True,
                              text=True)
        self.assertEqual(done.returncode, UNREACHABLE)
        self.assertRegex(done.stderr, r"^godwit: no agent answers")
        self.assertEqual(subprocess.run([self.agent_program(), "ps"], capture_output=True).returncode, USAGE)
        named = dict(os.environ, GODWIT_API=f"unix:{self.agent.api}")
        self.assertEqual(subprocess.run([self.agent_program(), "ps"], capture_output=True, env=named).returncode, DONE)

    def agent_program(self):
        return pathlib.Path(os.environ.get("GODWIT_BUILD", ROOT / "build")) / "tools/godwit/godwit"

    def test_an_agent_without_containers_leaves_no_cgroup(self):
        self.run_one()
        cgroups = list(pathlib.Path("/sys/fs/cgroup").glob(f"**/godwit-{self.lab.name}-a"))
        self.assertNotEqual(cgroups, [])
        self.agent.cli("rm", "--force", "one")
        self.agent.stop()
        left = [cgroup for cgroup in cgroups if cgroup.exists()]
        self.agent.start()
        self.assertEqual(left, [])

    def test_the_socket_is_ours_alone(self):
        self.assertEqual(self.agent.api.stat().st_mode & 0o777, 0o600)

    def test_a_root_has_one_agent(self):
        second = subprocess.run([self.agent_program().parents[1] / "godwitd/godwitd", "--name", "second", "--root",
                                 self.agent.root, "--listen", "127.0.0.1:7100", "--api",
                                 f"unix:{self.lab.directory}/second.sock"], capture_output=True, text=True, timeout=20)
        self.assertEqual(second.returncode, 1)
        self.assertRegex(second.stderr, "another godwitd uses this root")

    def test_addresses_that_no_other_agent_reaches(self):
        program = self.agent_program().parents[1] / "godwitd/godwitd"
        common = [program, "--name", "second", "--root", self.lab.directory / "second", "--api",
                  f"unix:{self.lab.directory}/second.sock", "--listen"]
        for listen in ("0.0.0.0:7100", "0:7100", "[::]:7100", "[0::0]:7100", "[::ffff:0.0.0.0]:7100"):
            with self.subTest(listen=listen):
                done = subprocess.run([*common, listen], capture_output=True, text=True, timeout=20)
                self.assertEqual(done.returncode, USAGE, done.stderr)
                self.assertRegex(done.stderr, r"^godwitd: accept --listen .* add --advertise ADDR:PORT.*\n\Z")
                done = subprocess.run([*common, "10.77.0.1:0", "--advertise", listen], capture_output=True, text=True,
                                      timeout=20)
                self.assertEqual(done.returncode, USAGE, done.stderr)
                self.assertRegex(done.stderr, r"^godwitd: accept --advertise .* other hosts reach\n\Z")
        self.assertFalse((self.lab.directory / "second").exists())

    def test_strangers_at_the_control_port(self):
        for data in (b"GET / HTTP/1.0\r\n\r\n", b"\0\0\0\0", b"\xff" * 64, b""):
            code = f"import socket; s = socket.create_connection(('10.77.0.1', 7100)); s.sendall({data!r}); s.close()"
            subprocess.run(self.lab.client_command(sys.executable, "-c", code), check=True)
        self.run_one()
        self.assertEqual(self.state(), "running")

    def test_help_and_doctor(self):
        for command in ("run", "ps", "stop", "rm", "logs", "exec", "migrate", "check", "migrations", "inspect",
                        "resolve", "doctor"):
            told = self.agent.cli(command, "--help").stdout
            self.assertRegex(told, "Examples:")
            self.assertRegex(told, "Exit status:")
        findings = {f["name"]: f for f in json.loads(self.agent.cli("doctor", "--json", check=False).stdout)["findings"]}
        for name in ("kernel", "runc", "CNI plugins", "bridge"):
            self.assertTrue(findings[name]["present"], name)
        self.assertIn("runc", self.agent.cli("doctor", check=False).stdout)


if __name__ == "__main__":
    unittest.main(verbosity=2)
