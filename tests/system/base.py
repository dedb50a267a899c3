"""What the system tests share: the lab, and cases that leave nothing behind."""

import json
import pathlib
import socket
import subprocess
import sys
import threading
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lab"))

from lab import BUILD, Lab, LabError, run_command, wait_for  # noqa: E402,F401


class LabCase(unittest.TestCase):
    """One lab for all tests of a class."""

    @classmethod
    def setUpClass(cls):
        cls.lab = Lab().__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.lab.close()

    def tearDown(self):
        for client in self.lab.clients:
            client.close()
        self.lab.clients.clear()
        for agent in self.lab.agents.values():
            for container in agent.containers():
                agent.cli("rm", "--force", container)


class InClientNamespace:
    """Python code that runs in the clients' namespace, line by line through a pipe.

    The code defines `step()`, which does one piece of work, checks it and returns nothing, or raises. It is called
    without pause; `finish()` returns {"steps": ..., "wrong": [...], "gap_us": ...}.
    """

    def __init__(self, lab, code):
        self.process = subprocess.Popen(
            lab.client_command("python3", pathlib.Path(__file__).with_name("client_loop.py")),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.process.stdin.write(json.dumps(code) + "\n")
        self.process.stdin.flush()
        if self.process.stdout.readline().strip() != "ready":
            raise LabError("the client did not start")

    def finish(self):
        self.process.stdin.write("finish\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        self.process.wait()
        return answer

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
