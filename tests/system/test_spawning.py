"""A program that is in vfork(2) again and again is moved all the same, and never stands still for it."""

import subprocess
import unittest

from base import InClientNamespace, LabCase, wait_for

ADDRESS = "10.77.0.21"
MIGRATIONS = 10
THREADS = 8
# Says how often its threads have run another program, by subprocess and so by vfork(2).
PROGRAM = f"""
import socket, subprocess, threading, time
spawned = [0] * {THREADS}
def spawn(i):
    while True:
        subprocess.run(["/usr/local/bin/true"], check=True)
        spawned[i] += 1
        time.sleep(0.01)
for i in range({THREADS}):
    threading.Thread(target=spawn, args=(i,), daemon=True).start()
listener = socket.create_server(("0.0.0.0", 7000))
def answer(connection):
    with connection:
        while connection.recv(1):
            connection.sendall(b"%d\\n" % sum(spawned))
while True:
    connection, _ = listener.accept()
    threading.Thread(target=answer, args=(connection,), daemon=True).start()
"""
CLIENT = f"""
import socket, time
connection = socket.create_connection(("{ADDRESS}", 7000), 60)
last = 0
def step():
    global last
    connection.sendall(b"?")
    text = b""
    while not text.endswith(b"\\n"):
        part = connection.recv(64)
        assert part, "the connection was closed"
        text += part
    assert int(text) >= last, (int(text), last)
    last = int(text)
    time.sleep(0.002)
"""


class Spawning(LabCase):
    def count(self):
        probe = (f"import socket; c = socket.create_connection(('{ADDRESS}', 7000), 1); c.sendall(b'?'); "
                 "print(c.recv(64).decode())")
        done = subprocess.run(self.lab.client_command("python3", "-c", probe), capture_output=True, text=True, check=False)
        return int(done.stdout) if done.returncode == 0 else 0

    def test_subprocesses_of_eight_threads(self):
        options = ("--user", "0", "--binary", "/bin/true", "--", "/usr/bin/python3", "-u", "/srv/spawn.py")
        bundle = self.lab.bundle("python3", *options)
        (bundle / "rootfs/srv/spawn.py").write_text(PROGRAM)
        self.lab.run("spawn", "python3", ADDRESS, bundle_options=options)
        wait_for(self.count, "the container to spawn")
        client = InClientNamespace(self.lab, CLIENT)
        self.addCleanup(client.close)
        moved = 0
        for i in range(MIGRATIONS):
            with self.subTest(migration=i):
                result = self.lab.migrate("spawn", "--deadline", "8s", check=False, timeout=60)
                moved += result["succeeded"]
                if not result["succeeded"]:  # in vfork(2) at each attempt, or a machine too busy for the deadline
                    self.assertRegex(result["error"], r"^stop .*pid \d+ \(.*vfork\(2\)[^\n]*$|deadline of 8000 ms")
                    target = self.lab.agents[self.lab.other("spawn")]
                    wait_for(lambda: "spawn" not in target.containers(), "the target to forget the container")
                before = self.count()
                wait_for(lambda: self.count() > before + THREADS, "the container to go on")
        self.assertGreater(moved, 0)
        self.assertEqual(client.finish()["wrong"], [])


if __name__ == "__main__":
    unittest.main()
