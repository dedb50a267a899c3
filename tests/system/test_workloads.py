"""Programs of several kinds are moved twenty times each while clients work with them."""

import json
import pathlib
import subprocess
import unittest

from base import BUILD, InClientNamespace, LabCase, wait_for

MIGRATIONS = 20
ADDRESS = "10.77.0.20"


class Workloads(LabCase):
    def connectable(self, port):
        probe = f"import socket; socket.create_connection(('{ADDRESS}', {port}), 1)"
        wait_for(lambda: subprocess.run(self.lab.client_command("python3", "-c", probe),
                                        capture_output=True).returncode == 0, f"port {port} of the container")

    def client(self, code):
        client = InClientNamespace(self.lab, code)
        self.addCleanup(client.close)
        return client

    def move(self, container, *options):
        for i in range(MIGRATIONS):
            with self.subTest(migration=i):
                result = self.lab.migrate(container, "--verify", *options)
                self.assertTrue(result["verified"])

    def assert_content(self, report, steps_min):
        self.assertEqual(report["wrong"], [])
        self.assertGreater(report["steps"], steps_min)

    def test_redis_under_load(self):
        self.lab.run("redis", "redis", ADDRESS)
        client = self.lab.redis_client(ADDRESS, rate=500, preload=64 << 20, load=2000)
        self.move("redis")
        total = client.finish()
        self.assertEqual((total["wrong"], total["lost"], total["reconnects"]), (0, 0, 0))
        self.assertGreater(total["answered"], 1000)

    def test_a_program_that_checks_itself(self):
        self.lab.run("selfcheck", "program", ADDRESS,
                     bundle_options=("--binary", BUILD / "tests/workloads/selfcheck"))
        self.connectable(7000)
        client = self.client(f"""
import json, socket, time
connection = socket.create_connection(("{ADDRESS}", 7000), 20)
last = None
def step():
    global last
    connection.sendall(b"state\\n")
    text = b""
    while not text.endswith(b"\\n"):
        part = connection.recv(65536)
        assert part, "the connection was closed"
        text += part
    state = json.loads(text)
    assert not state["wrong"], state["wrong"]
    if last is not None and time.monotonic() - last[0] > 5:
        for name, rounds in state["rounds"].items():
            assert rounds > last[1]["rounds"][name], f"{{name}} has stopped"
        assert state["signals"] > last[1]["signals"], "no timer signals any more"
        last = (time.monotonic(), state)
    last = last or (time.monotonic(), state)
    time.sleep(0.005)
""")
        self.move("selfcheck")
        self.assert_content(client.finish(), 100)

    def test_a_python_server_with_keep_alive_clients(self):
        self.lab.run("python", "python3", ADDRESS)
        self.connectable(8080)
        client = self.client(f"""
import http.client, time, zlib
class Kept:
    def __init__(self):
        self.connection = http.client.HTTPConnection("{ADDRESS}", 8080, timeout=20)
        self.connection.connect()
        self.connection.auto_open = 0  # a lost connection is an error, not a reason to make another
        self.count = self.checksum = 0
    def get(self, path):
        self.connection.request("GET", path)
        answer = self.connection.getresponse()
        body = answer.read().decode().split()
        self.count += 1
        self.checksum = zlib.crc32(path.encode(), self.checksum)
        assert body[1:] == [str(self.count), f"{{self.checksum:08x}}"], body
        return int(body[0])
clients = [Kept() for _ in range(4)]
turn = last = 0
def step():
    global turn, last
    turn += 1
    total = clients[turn % len(clients)].get(f"/{{turn}}")
    assert total == last + 1, (total, last)
    last = total
    time.sleep(0.002)
""")
        self.move("python")
        self.assert_content(client.finish(), 100)

    def test_nginx_with_workers(self):
        self.lab.run("nginx", "nginx", ADDRESS)
        self.connectable(80)
        client = self.client(f"""
import http.client, time
kept = http.client.HTTPConnection("{ADDRESS}", 80, timeout=20)
kept.connect()
kept.auto_open = 0
def get(connection):
    connection.request("GET", "/")
    response = connection.getresponse()
    body = response.read()
    assert response.status == 200 and body, (response.status, body)
def step():
    get(kept)
    fresh = http.client.HTTPConnection("{ADDRESS}", 80, timeout=20)
    get(fresh)
    fresh.close()
    time.sleep(0.005)
""")
        self.move("nginx")
        self.assert_content(client.finish(), 50)

    def test_a_shell_pipeline(self):
        self.lab.run("pipeline", "shell", ADDRESS)
        wait_for(lambda: len(self.lines("pipeline")) > 10, "output of the pipeline")
        self.move("pipeline")
        before = len(self.lines("pipeline"))
        wait_for(lambda: len(self.lines("pipeline")) > before, "more output of the pipeline")
        # Numbered from 1 at the start of the pipeline: none may be lost or come twice on its way through.
        numbers = [int(line.split()[0]) for line in self.lines("pipeline")]
        self.assertEqual(numbers, list(range(1, len(numbers) + 1)))

    def test_memory_that_no_page_table_tells_of(self):
        """Memfds written by write(2), made and mapped for a moment, and mappings that never keep their place."""
        bundle = self.lab.run("memories", "program", ADDRESS,
                              bundle_options=("--binary", BUILD / "tests/workloads/memories", "--user", "0"))
        log = pathlib.Path(bundle, "rootfs/data/memories.log")

        def turns():
            lines = log.read_text().splitlines() if log.exists() else []
            self.assertEqual([line for line in lines if line.startswith("wrong")], [])
            return len(lines)

        wait_for(turns, "the first turn")
        for i in range(MIGRATIONS):
            with self.subTest(migration=i):
                before = turns()
                if i % 4 == 3:  # one that comes to nothing: what tracked the memory goes again
                    self.lab.migrate("memories", "--downtime", "1us", "--deadline", "1s", check=False)
                    target = self.lab.agents[self.lab.other("memories")]
                    wait_for(lambda: "memories" not in target.containers(), "the target without it")
                else:
                    self.assertTrue(self.lab.migrate("memories", "--verify")["verified"])
                wait_for(lambda: turns() > before, "more turns")

    def lines(self, container):
        host = self.lab.agents[self.lab.where[container]]
        text = host.cli("exec", container, "--", "cat", "/data/pipeline.log").stdout
        return text.splitlines()[:-1] if not text.endswith("\n") else text.splitlines()


if __name__ == "__main__":
    unittest.main()
