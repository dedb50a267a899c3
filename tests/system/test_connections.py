"""What a container's kernel has in hand for it goes with it, or the move waits: connections whose both ends are in the
container, requests that a server at its limit has not taken yet, responses that are still being sent after the program
has closed them."""

import subprocess
import unittest

from base import InClientNamespace, LabCase, wait_for

ADDRESS = "10.77.0.22"
MIGRATIONS = 10

# Two processes stream to each other, as fast as the buffers let them, the slower one being now this, now that; each
# byte is checked. Port 7000 says how far each stream has come, and what was wrong.
STREAMS = f"""
import json, mmap, os, socket, struct, threading, time
PACING = 47  # SO_MAX_PACING_RATE, bytes a second
PATTERN = bytes(i * i * 31 % 251 for i in range(65521))
WHERE = [("127.0.0.1", socket.AF_INET), ("{ADDRESS}", socket.AF_INET), ("::1", socket.AF_INET6)]
counts = mmap.mmap(-1, 4096)
def read(connection, slot):
    at = 0
    while True:
        part = connection.recv(65536)
        begin = at % len(PATTERN)
        if not part or part != (PATTERN * 3)[begin:begin + len(part)]:
            struct.pack_into("q", counts, 8 * slot, -1 - at)
            return
        at += len(part)
        struct.pack_into("q", counts, 8 * slot, at)
        if at >> 22 & 1:
            time.sleep(0.001)
def write(connection):
    at = 0
    while True:
        # The kernel goes on sending what it has, also while the program stands still.
        connection.setsockopt(socket.SOL_SOCKET, PACING, 20_000_000)
        begin = at % len(PATTERN)
        at += connection.send((PATTERN * 2)[begin:begin + 60000])
def work(connections, first):
    for one in connections:  # the rest of what TCP would take for itself does not fit into one message
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 19)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 19)
    for i, one in enumerate(connections):
        threading.Thread(target=read, args=(one, 2 * i + first), daemon=True).start()
        threading.Thread(target=write, args=(one,), daemon=True).start()
listeners = [socket.create_server((host, 7100 + i), family=family) for i, (host, family) in enumerate(WHERE)]
if os.fork() == 0:
    work([socket.create_connection((host, 7100 + i)) for i, (host, _) in enumerate(WHERE)], 0)
    while True:
        time.sleep(60)
work([listener.accept()[0] for listener in listeners], 1)
answers = socket.create_server(("0.0.0.0", 7000))
while True:
    connection, _ = answers.accept()
    with connection:
        while connection.recv(1):
            connection.sendall(json.dumps(struct.unpack_from(f"{{2 * len(WHERE)}}q", counts)).encode() + b"\\n")
"""

# One request at a time, 10 ms each.
BUSY = """
import socket, threading, time
box = socket.socket(type=socket.SOCK_DGRAM)
box.bind(("0.0.0.0", 7001))
def datagrams():
    while True:
        data, peer = box.recvfrom(100)
        time.sleep(0.002)
        box.sendto(b"re " + data, peer)
threading.Thread(target=datagrams, daemon=True).start()
listener = socket.create_server(("0.0.0.0", 7000), backlog=64)
while True:
    connection, _ = listener.accept()
    with connection:
        request = connection.recv(100)
        time.sleep(0.01)
        connection.sendall(b"done " + request)
"""
BUSY_CLIENT = f"""
import socket, threading, time
wrong, answered = [], [0] * 16
def connections(i):
    while True:
        try:
            with socket.create_connection(("{ADDRESS}", 7000), 60) as one:
                one.sendall(b"%d" % i)
                assert one.recv(100) == b"done %d" % i
            answered[i] += 1
        except Exception as error:
            wrong.append(f"{{type(error).__name__}}: {{error}}")
def datagrams(i):
    box = socket.socket(type=socket.SOCK_DGRAM)
    box.connect(("{ADDRESS}", 7001))
    box.settimeout(20)
    while True:
        request = b"%d %d" % (i, answered[i])
        box.send(request)
        try:
            got = box.recv(100)
            if got != b"re " + request:
                wrong.append(f"{{got}} for {{request}}")
        except TimeoutError:
            wrong.append(f"datagram {{request}} was lost")
        answered[i] += 1
for i in range(8):
    threading.Thread(target=connections, args=(i,), daemon=True).start()
    threading.Thread(target=datagrams, args=(i + 8,), daemon=True).start()
def step():
    time.sleep(0.01)
    assert not wrong, wrong
"""

# Closes at once what the kernel then needs a third of a second to send to a slow client.
CLOSING = """
import socket
body = bytes(i * 31 % 251 for i in range(150_000))
listener = socket.create_server(("0.0.0.0", 7000), backlog=16)
while True:
    connection, _ = listener.accept()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    connection.recv(100)
    connection.sendall(body)
    connection.close()
"""
CLOSING_CLIENT = f"""
import socket, time
body = bytes(i * 31 % 251 for i in range(150_000))
def step():
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    connection.settimeout(60)
    connection.connect(("{ADDRESS}", 7000))
    connection.sendall(b"get")
    got = b""
    while part := connection.recv(4096):
        got += part
        time.sleep(0.008)
    assert got == body, len(got)
    connection.close()
    time.sleep(0.1)
"""


class Connections(LabCase):
    def start(self, name, program):
        options = ("--user", "0", "--", "/usr/bin/python3", "-u", "/srv/program.py")
        bundle = self.lab.bundle("python3", *options)
        (bundle / "rootfs/srv/program.py").write_text(program)
        self.lab.run(name, "python3", ADDRESS, bundle_options=options)
        probe = f"import socket; socket.create_connection(('{ADDRESS}', 7000), 1)"
        wait_for(lambda: subprocess.run(self.lab.client_command("python3", "-c", probe), capture_output=True,
                                        check=False).returncode == 0, "the program")

    def counts(self):
        ask = (f"import socket; c = socket.create_connection(('{ADDRESS}', 7000), 20); c.sendall(b'?'); "
               "print(c.makefile().readline())")
        done = subprocess.run(self.lab.client_command("python3", "-c", ask), capture_output=True, text=True, check=True)
        return [int(count) for count in done.stdout.strip().strip("[]").split(",")]

    def test_streams_inside_the_container(self):
        self.start("streams", STREAMS)
        for i in range(MIGRATIONS):
            with self.subTest(migration=i):
                before = self.counts()
                self.assertGreaterEqual(min(before), 0, "a stream broke, or its bytes were wrong")
                wait_for(lambda: all(now > then + (1 << 20) for now, then in zip(self.counts(), before)),
                         "all streams to go on", 60)
                self.lab.migrate("streams", "--verify")
        before = self.counts()
        wait_for(lambda: all(now > then + (1 << 20) for now, then in zip(self.counts(), before)),
                 "all streams to go on", 60)

    def test_a_server_at_its_limit(self):
        self.start("busy", BUSY)
        client = InClientNamespace(self.lab, BUSY_CLIENT)
        self.addCleanup(client.close)
        for i in range(MIGRATIONS):
            with self.subTest(migration=i):
                self.lab.migrate("busy", "--verify")
        report = client.finish()
        self.assertEqual(report["wrong"], [])
        self.assertGreater(report["steps"], 10)

    def test_a_response_that_outlives_its_socket(self):
        self.start("closing", CLOSING)
        client = InClientNamespace(self.lab, CLOSING_CLIENT)
        self.addCleanup(client.close)
        for i in range(MIGRATIONS):
            with self.subTest(migration=i):
                self.lab.migrate("closing", "--verify")
        report = client.finish()
        self.assertEqual(report["wrong"], [])
        self.assertGreater(report["steps"], 3)

    def test_an_interface_made_inside_is_named(self):
        self.start("wired", CLOSING)
        inside = self.lab.agents["a"].root / "network/wired"
        subprocess.run(["nsenter", f"--net={inside}", "ip", "link", "add", "wire0", "type", "veth", "peer", "wire1"],
                       check=True)
        result = self.lab.migrate("wired", check=False)
        self.assertRegex(result["error"], "network interface wire0: only lo and eth0 are moved")
        subprocess.run(["nsenter", f"--net={inside}", "ip", "link", "delete", "wire0"], check=True)
        self.lab.migrate("wired", "--verify")


if __name__ == "__main__":
    unittest.main()
