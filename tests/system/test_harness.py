"""What the matrix judges by, and what it strikes with, do what they say: a judge that sees nothing finds nothing."""

import errno
import os
import pathlib
import signal
import subprocess
import sys
import unittest

from base import BUILD, Lab, wait_for

from counting import PORT, Counter, Watch
from link import cut_way, mend_way

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "matrix"))

import cells  # noqa: E402
import leaks  # noqa: E402


class Harness(unittest.TestCase):
    def make(self, **options):
        self.lab = Lab(**options)
        self.addCleanup(self.lab.abandon)
        self.lab.__enter__()

    def run_counter(self):
        self.counter = Counter(self.lab)
        self.watch = Watch(self.lab, [self.counter])
        self.addCleanup(self.watch.close)
        self.counter.run("a")
        wait_for(self.counter.counts, "the container to count")

    def test_a_second_copy_is_seen(self):
        self.make()
        self.run_counter()
        self.assertEqual(self.counter.place(), "a")
        self.lab.agents["b"].cli("run", self.counter.bundle, "--id", self.counter.id, "--ip", "10.77.0.21/24")
        wait_for(lambda: self.watch.two, "the kernel's word that two run")
        self.assertIsNone(self.counter.place())
        self.counter.log.read()
        self.assertRegex(self.counter.log.wrong[0], "twice, or out of order")

    def test_silence_is_seen(self):
        self.make()
        self.run_counter()
        self.counter.log.take_silence()
        for pid in self.counter.pids("a"):
            os.kill(pid, signal.SIGSTOP)
        self.assertFalse(self.counter.counts(1))
        self.assertEqual(self.counter.hosts_running(), [])
        for pid in self.counter.pids("a"):
            os.kill(pid, signal.SIGCONT)
        self.assertTrue(self.counter.counts(1))
        self.assertGreater(self.counter.log.take_silence(), 0.9)
        self.assertGreater(self.counter.client.ask()["silence_s"], 0.9)
        self.assertEqual(self.counter.connection_fault(20), "")

    def test_a_wrong_byte_is_seen(self):
        # A client that sends what is not the stream; a server that sends another's.
        self.make()
        self.run_counter()
        stranger = f"import socket; socket.create_connection(('{self.counter.address}', {PORT}), 5).send(bytes(64))"
        subprocess.run(self.lab.client_command("python3", "-c", stranger), check=True, timeout=20)
        wait_for(lambda: self.counter.log.read() and self.counter.log.wrong, "the server's complaint")
        self.assertRegex(self.counter.log.wrong[0], "to the server: wrong: byte 0")
        server = subprocess.Popen(self.lab.client_command(
            "python3", "-uc", "import socket; s = socket.create_server(('10.77.0.9', 9)); print(); c, _ = s.accept(); "
                              "c.send(bytes(64)); c.recv(1 << 20); input()"), stdin=subprocess.PIPE,
            stdout=subprocess.PIPE)
        server.stdout.readline()
        client = subprocess.Popen(self.lab.client_command(BUILD / "tests/workloads/counter", "connect", "10.77.0.9", 9),
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE)

        def complaint():
            client.stdin.write(b"?\n")
            client.stdin.flush()
            return b"wrong: byte 0" in client.stdout.readline()
        try:
            wait_for(complaint, "the client's complaint")
        finally:
            for process in (client, server):
                process.kill()
                process.communicate()

    def test_a_leak_is_seen(self):
        self.make()
        self.run_counter()
        space = leaks.address_space_of(self.counter, "a")
        self.assertEqual(leaks.find_leaks(self.lab, {self.counter: ("a", space)}), [])
        subprocess.run(["ip", "-n", f"{self.lab.name}-b", "link", "add", "left", "type", "veth"], check=True)
        (self.lab.agents["b"].root / "containers" / "left").mkdir()
        found = " ".join(leaks.find_leaks(self.lab, {self.counter: ("a", space[:0])}))
        for what in ("interfaces at b", "ROOT/containers at b", "has mapped"):
            self.assertIn(what, found)

    def test_loss_of_power_takes_what_was_not_synced(self):
        self.make(disks=True)
        agent = self.lab.agents["a"]
        self.run_counter()
        for name in ("synced", "renamed.new", "not"):
            with open(agent.root / name, "w") as file:
                file.write(name)
                if name != "not":
                    file.flush()
                    os.fsync(file.fileno())
        (agent.root / "renamed.new").rename(agent.root / "renamed")
        self.assertTrue(self.counter.pids("a"))
        agent.lose_power()
        self.assertEqual(agent.pids(), set())
        agent.reboot()
        self.assertEqual((agent.root / "synced").read_text(), "synced")
        self.assertEqual((agent.root / "renamed.new").read_text(), "renamed.new")
        self.assertFalse((agent.root / "renamed").exists())
        self.assertFalse((agent.root / "not").exists() and (agent.root / "not").read_text())
        self.assertEqual(leaks.interfaces(self.lab, "a"), [])
        self.assertEqual(self.counter.hosts_running(), [])

    def test_a_full_disk_takes_neither_byte_nor_file(self):
        self.make(disks=True)
        root = self.lab.agents["a"].root
        (root / "old").write_text("")
        self.lab.agents["a"].disk.fill()
        with self.assertRaises(OSError) as more, open(root / "old", "ab", buffering=0) as file:
            file.write(bytes(1024))
        self.assertEqual(more.exception.errno, errno.ENOSPC)
        with self.assertRaises(OSError) as new:
            (root / "new").touch()
        self.assertEqual(new.exception.errno, errno.ENOSPC)
        self.lab.agents["a"].disk.empty()
        (root / "new").write_text("there is room again")

    def test_a_way_is_cut_one_way(self):
        self.make()
        received = self.exchange()
        self.assertTrue(received["a"] and received["b"], received)
        cut_way(self.lab, "a", "b")
        received = self.exchange()
        self.assertTrue(received["a"] and not received["b"], received)
        mend_way(self.lab, "a", "b")
        received = self.exchange()
        self.assertTrue(received["a"] and received["b"], received)

    def exchange(self):
        """Each host sends a datagram to the other: {host: whether one came}."""
        code = ("import socket, sys; own, other = sys.argv[1:];"
                "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
                "s.bind((own, 9)); s.settimeout(2); print(flush=True); input(); s.sendto(b'x', (other, 9));\n"
                "try: print(len(s.recv(9)))\n"
                "except TimeoutError: print(0)")
        addresses = {"a": ("10.77.0.1", "10.77.0.2"), "b": ("10.77.0.2", "10.77.0.1")}
        ends = {host: subprocess.Popen(["nsenter", f"--net=/run/netns/{self.lab.name}-{host}", "python3", "-c", code,
                                        *own], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                for host, own in addresses.items()}
        for end in ends.values():
            end.stdout.readline()
        for end in ends.values():
            end.stdin.write("\n")
            end.stdin.flush()
        return {host: end.communicate(timeout=20)[0].strip() == "1" for host, end in ends.items()}

    def test_parts_of_the_matrix_are_the_matrix(self):
        every = cells.all_cells()
        parts = [cells.part_of(every, 5, part, 10) for part in range(1, 11)]
        self.assertEqual(sorted(cell for part in parts for cell in part), sorted(every))
        self.assertEqual(cells.part_of(every, 5, 1, 10), parts[0])


if __name__ == "__main__":
    unittest.main()
