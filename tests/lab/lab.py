"""Two hosts with an agent each, containers on them, clients beside them: what the demo, the tests and the
benchmarks are made of.

    with Lab() as lab:                       # tests/lab/hosts, two godwitd
        lab.run("db", "redis", "10.77.0.5")  # tests/lab/bundle, godwit run
        result = lab.migrate("db")           # to the other host; the JSON of godwit migrate

Everything is named after the lab (default: this process), lies in one temporary directory, and is removed at the
end, also after a failure or a signal; if this process is killed, by tests/lab/caretaker.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = pathlib.Path(os.environ.get("GODWIT_BUILD", ROOT / "build"))
HOSTS = ("a", "b")
AGENT_PORT = 7100
PATIENCE_S = int(os.environ.get("GODWIT_LAB_PATIENCE_S", 20))  # emulated machines need more

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from commands import LabError, run_command  # noqa: E402
from disk import Disk  # noqa: E402
from link import ADDRESSES  # noqa: E402
from programs import end_programs, pids_of_host  # noqa: E402


def wait_for(condition, what, timeout=PATIENCE_S):
    """Polls `condition` until it is true; returns its value."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise LabError(f"waited {timeout} s in vain for {what}")
        time.sleep(0.02)


class Agent:
    """One godwitd in its host's network namespace."""

    def __init__(self, lab, host):
        self.lab, self.host = lab, host
        self.name = f"{lab.name}-{host}"
        self.root = lab.directory / f"host-{host}"
        self.api = lab.directory / f"{host}.sock"
        self.log = lab.directory / f"godwitd-{host}.log"
        self.address = f"{lab.addresses[host]}:{AGENT_PORT}"
        self.listen = self.address
        self.options = []  # more of them for godwitd
        self.build = lab.build  # whose godwitd and godwit
        self.environment = {}
        self.disk = None
        self.process = None

    def start(self, fault=None):
        environment = {**os.environ, **self.environment}
        environment.pop("GODWIT_FAULT", None)
        if fault:
            environment["GODWIT_FAULT"] = fault
        self.root.mkdir(parents=True, exist_ok=True)
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{self.lab.name}-{self.host}", self.build / "tools/godwitd/godwitd",
                 "--name", self.name, "--root", self.root, "--listen", self.listen,
                 "--api", f"unix:{self.api}", *self.options],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, start_new_session=True)
        wait_for(self._answers, f"godwitd of host {self.host} (see {self.log})")
        return self

    def _answers(self):
        if self.process.poll() is not None:
            tail = self.log.read_text(errors="replace").strip().splitlines()[-1:]
            raise LabError(f"godwitd of host {self.host} ended: {' '.join(tail)}")
        return self.api.exists() and self.cli("ps", check=False, timeout=PATIENCE_S).returncode == 0

    def cli(self, *arguments, check=True, timeout=120):
        """Runs `godwit` against this agent."""
        return run_command([self.build / "tools/godwit/godwit", "--api", f"unix:{self.api}", *arguments],
                           timeout=timeout, check=check)

    def popen(self, *arguments, **options):
        return subprocess.Popen([str(a) for a in (self.build / "tools/godwit/godwit", "--api", f"unix:{self.api}",
                                                  *arguments)], text=True, **options)

    def containers(self):
        listed = json.loads(self.cli("ps", "--json").stdout)
        return {c["id"]: c for c in listed["containers"]}

    def stop(self):
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def kill(self):
        self.process.kill()
        self.process.wait()

    def pids(self):
        """All programs of this host: the agent, its workers, what those have started, and its containers."""
        return pids_of_host(self.lab.name, self.host)

    def lose_power(self):
        """What runs at this host is gone, and so is what it has not synced to its disk. Until reboot() it is silent."""
        run_command(["ip", "-n", f"{self.lab.name}-switch", "link", "set", "dev", self.host, "down"])
        if self.disk:
            self.disk.lose_power()
        end_programs(self.lab.name, self.host)
        self.process.wait(PATIENCE_S)

    def reboot(self, fault=None):
        """After lose_power(). Nothing that lives in a kernel or below /run is left, nor what the agent keeps of it."""
        if self.disk:
            self.disk.restore()
        run_command([ROOT / "tests/lab/hosts", "reboot", self.host, "--name", self.lab.name])
        for directory in ("runc", "network"):
            shutil.rmtree(self.root / directory, ignore_errors=True)
        return self.start(fault)


class Lab:
    addresses = ADDRESSES  # where the agents listen
    agent_type = Agent

    def __init__(self, name=None, faults=None, hosts=HOSTS, disks=False, build=BUILD):
        """`disks`: the --root of each agent is a disk.Disk."""
        self.name = name or f"gw{os.getpid()}"
        self.build = pathlib.Path(build)  # of the product; the clients are always this one's
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix=f"godwit-{self.name}-"))
        self.bundles = self.directory / "bundles"
        self.agents = {host: self.agent_type(self, host) for host in hosts}
        self.where = {}
        self.clients = []
        self.caretaker = None
        self.faults = faults or {}
        self.disks = disks

    def __enter__(self):
        signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        try:
            self.make_hosts()
            for host, agent in self.agents.items():
                agent.start(self.faults.get(host))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        for client in self.clients:
            client.close()
        for agent in self.agents.values():
            with contextlib.suppress(Exception):
                for container in agent.containers():
                    agent.cli("rm", "--force", container, check=False)
            agent.stop()
        self._remove()

    def abandon(self):
        """As close(), without asking anybody: agents may hang, or be stopped."""
        for client in self.clients:
            client.close()
        for agent in self.agents.values():
            if agent.process and agent.process.poll() is None:
                agent.kill()
        self._remove()

    def _remove(self):
        if self.caretaker:
            self.caretaker.stdin.close()
            self.caretaker.wait()

    def make_hosts(self):
        self.caretaker = subprocess.Popen([ROOT / "tests/lab/caretaker", self.name, self.directory],
                                          stdin=subprocess.PIPE, start_new_session=True)
        third = ["--third"] if "c" in self.agents else []
        run_command([ROOT / "tests/lab/hosts", "up", "--name", self.name, *third])
        if self.disks:
            for host, agent in self.agents.items():
                agent.disk = Disk(self.directory / f"disk-{host}", agent.root)
                agent.disk.make()

    def bundle(self, kind, *options):
        """An OCI bundle of this kind; made once for each lab."""
        path = self.bundles / "-".join([kind, *[os.path.basename(str(o)) for o in options]])
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            run_command([ROOT / "tests/lab/bundle", kind, path, *options])
        return path

    def run(self, container, kind, address, *options, host="a", bundle_options=()):
        bundle = self.bundle(kind, *bundle_options)
        self.agents[host].cli("run", bundle, "--id", container, "--ip", f"{address}/24", *options)
        self.where[container] = host
        return bundle

    def other(self, container):
        return "b" if self.where[container] == "a" else "a"

    def migrate(self, container, *options, check=True, timeout=120, on_event=None):
        """To the other host. Returns the JSON object of `godwit migrate --json`, with its exit status.

        `on_event` is called with each event before the result, as it comes.
        """
        source, target = self.where[container], self.other(container)
        process = self.agents[source].popen("migrate", container, "--to", self.agents[target].address, "--json",
                                            *options, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        watchdog = threading.Timer(timeout, process.kill)
        watchdog.start()
        result = {"succeeded": False}
        for line in process.stdout:
            event = json.loads(line)
            if "succeeded" in event:
                result = event
            elif on_event:
                on_event(event)
        error = process.stderr.read().strip()
        result["exit_status"] = process.wait()
        watchdog.cancel()
        process.stdout.close()
        process.stderr.close()
        if result["succeeded"]:
            self.where[container] = target
            return result
        result["error"] = error.removeprefix("godwit: ") or f"no word within {timeout} s"
        if check:
            raise LabError(f"the migration of {container} failed: {result['error']}")
        return result

    def client_command(self, *arguments):
        """A command line that runs in the clients' namespace."""
        return ["nsenter", f"--net=/run/netns/{self.name}-client", *[str(a) for a in arguments]]

    def redis_client(self, address="10.77.0.5", **options):
        client = RedisClient(self, address, options)
        self.clients.append(client)
        return client


class RedisClient:
    """tests/workloads/redis_client: see there."""

    def __init__(self, lab, address, options):
        command = [BUILD / "tests/workloads/redis_client", "--host", address]
        for key, value in options.items():
            command += [f"--{key}", value]
        wait_for(lambda: self._reachable(lab, address), f"redis at {address}")
        self.process = subprocess.Popen(lab.client_command(*command), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True)
        self._read()

    @staticmethod
    def _reachable(lab, address):
        probe = f"import socket; socket.create_connection(('{address}', 6379), 1)"
        return subprocess.run(lab.client_command("python3", "-c", probe), capture_output=True).returncode == 0

    def _read(self):
        line = self.process.stdout.readline()
        if not line:
            raise LabError(f"the redis client ended with status {self.process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise LabError(f"the redis client: {answer['error']}")
        return answer

    def _ask(self, word):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(word + "\n")
            self.process.stdin.flush()
        return self._read()

    def mark(self):
        return self._ask("mark")

    def finish(self):
        return self._ask("finish")

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
