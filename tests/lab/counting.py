"""A container that counts (tests/workloads/counter.cc), the client that checks every byte of a connection to it, and
what can be said of both from outside: whether a number came twice, how long it was silent, where it runs."""

import contextlib
import json
import os
import pathlib
import select
import signal
import subprocess
import threading
import time

from commands import LabError, run_command
from lab import BUILD, ROOT
from programs import pids_in, state_of, workers

COUNTER = BUILD / "tests/workloads/counter"
PORT = 9000


class CountLog:
    """The log of a counting container. Its writers are told by their network namespaces. Threads: any."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self._lock = threading.RLock()
        self.forget()

    def forget(self):
        """As if nothing had been read: for a new container that writes it from its beginning."""
        self.offset, self.tail = 0, b""
        self.last, self.place, self.time_us, self.heard = 0, None, None, 0
        self.wrong = []  # what contradicts that one program has written this, one line each
        self.silence_s = 0.0

    def read(self):
        """What came since the last time. Returns the newest number."""
        with self._lock, contextlib.suppress(FileNotFoundError), open(self.path, "rb") as file:
            file.seek(self.offset)
            data = file.read()
            self.offset += len(data)
            lines = (self.tail + data).split(b"\n")
            self.tail = lines.pop()
            for line in lines:
                self._take(line.decode(errors="replace"))
        return self.last

    def _take(self, line):
        words = line.split()
        if len(words) != 4 or not all(word.isdecimal() for word in words):
            self.wrong.append(f"in the log: {line[:200]}")
            return
        number, place, time_us, heard = map(int, words)
        if number != self.last + 1:
            kind = "twice, or out of order" if number <= self.last else "left out"
            self.wrong.append(f"numbers {kind}: {self.last} (by {self.place}), then {number} (by {place})")
        if self.time_us is not None:
            self.silence_s = max(self.silence_s, (time_us - self.time_us) / 1e6)
        self.last, self.place, self.time_us, self.heard = number, place, time_us, heard

    def take_silence(self):
        """The longest since the last call, the one that lasts included."""
        with self._lock:
            self.read()
            now = time.time() - self.time_us / 1e6 if self.time_us is not None else 0.0
            silence, self.silence_s = max(self.silence_s, now), 0.0
            return silence


class StreamClient:
    """One connection in the clients' namespace."""

    def __init__(self, lab, address):
        self.process = subprocess.Popen(lab.client_command(COUNTER, "connect", address, PORT), stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        lab.clients.append(self)

    def ask(self, timeout=20):
        """{"sent", "received", "silence_s" since the last call, "ended": why or ""}."""
        answer = b""
        try:
            self.process.stdin.write(b"?\n")
            self.process.stdin.flush()
            end = time.monotonic() + timeout
            while not answer.endswith(b"\n"):
                if not select.select([self.process.stdout], [], [], max(0, end - time.monotonic()))[0]:
                    raise LabError("the client does not answer")
                piece = os.read(self.process.stdout.fileno(), 4096)
                if not piece:
                    raise LabError("the client has ended: it never came to a connection")
                answer += piece
        except BrokenPipeError:
            raise LabError("the client has ended: it never came to a connection") from None
        return json.loads(answer)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.stdout.close()


class Counter:
    """One counting container; `where` is the host it was last known at."""

    def __init__(self, lab, container="count", address="10.77.0.20", mib=16, rate=4000, extra=()):
        self.lab, self.id, self.address = lab, container, address
        self.bundle = lab.bundles / container
        self.bundle.parent.mkdir(exist_ok=True)
        run_command([ROOT / "tests/lab/bundle", "program", self.bundle, "--binary", COUNTER, "--",
                     "/usr/local/bin/counter", "serve", "/data/count", PORT, mib, rate, *extra])
        self.log = CountLog(self.bundle / "rootfs/data/count")
        self.client = None
        self.where = None

    def run(self, host="a"):
        """A new one, which counts from 1."""
        if self.log.path.exists():
            os.truncate(self.log.path, 0)  # not removed: an old copy that wakes up is to be seen in it
        self.log.forget()
        self.lab.agents[host].cli("run", self.bundle, "--id", self.id, "--ip", f"{self.address}/24", timeout=60)
        self.where = host
        self.connect()

    def connect(self):
        if self.client:
            self.client.close()
            self.lab.clients.remove(self.client)
        self.client = StreamClient(self.lab, self.address)
        self.client.ask(timeout=30)

    def connection_fault(self, timeout):
        """Why the connection does not carry bytes both ways within `timeout`; "" if it does."""
        self.log.read()
        before, heard = self.client.ask()["received"], self.log.heard
        end = time.monotonic() + timeout
        while True:
            seen = self.client.ask()
            self.log.read()
            if seen["ended"]:
                return f"lost: {seen['ended']}"
            ways = [way for way, moved in (("to the client", seen["received"] > before),
                                           ("to the container", self.log.heard > heard)) if not moved]
            if not ways:
                return ""
            if time.monotonic() > end:
                return f"open, and nothing goes {' and '.join(ways)} within {timeout} s"
            time.sleep(0.1)

    def counts(self, seconds=0.3):
        """Whether it goes on by itself now."""
        before = self.log.read()
        time.sleep(seconds)
        return self.log.read() > before

    def runs_at(self, host):
        return runs_at(self.lab.name, host, self.id)

    def pids(self, host):
        return container_pids(self.lab.name, host, self.id)

    def place(self):
        """The one host at which it runs, as all agents say and the kernel knows; None if there is no such host."""
        present = {host: states[self.id] for host, states in listing(self.lab).items() if self.id in states}
        if len(present) == 1 and "running" in present.values() and self.hosts_running() == list(present):
            return next(iter(present))
        return None

    def hosts_running(self):
        """As the kernel knows."""
        return [host for host in self.lab.agents if self.runs_at(host)]


def listing(lab):
    """{host: {container: state}}, as the agents say; {"?": ...} for one that does not answer."""
    found = {}
    for host, agent in lab.agents.items():
        try:
            done = agent.cli("ps", "--json", check=False, timeout=20)
            found[host] = {c["id"]: c["state"] for c in json.loads(done.stdout)["containers"]}
        except (subprocess.TimeoutExpired, ValueError):
            found[host] = {"?": "does not answer"}
    return found


def cgroups_of(name, host, container):
    tops = [pathlib.Path(f"/sys/fs/cgroup/godwit-{name}-{host}/{container}")]
    with contextlib.suppress(OSError):
        tops += [pathlib.Path(entry) / f"godwit-{name}-{host}/{container}" for entry in os.scandir("/sys/fs/cgroup")]
    return [top for top in tops if top.exists()]


def container_pids(name, host, container):
    """All processes of the container at this host, whatever their state."""
    return set().union(*(pids_in(pathlib.Path(path)) for top in cgroups_of(name, host, container)
                         for path, _, _ in os.walk(top)))


def is_frozen(cgroup):
    with contextlib.suppress(OSError):
        if (cgroup / "freezer.state").read_text().strip() != "THAWED":
            return True
    with contextlib.suppress(OSError):
        if (cgroup / "cgroup.freeze").read_text().strip() == "1":
            return True
    return False


def runs_at(name, host, container):
    """Whether a thread of the counting program is free to run there: in no frozen cgroup, stopped by nobody, traced by
    nobody. A replica that is being built is traced, or frozen, until the decision has been taken."""
    if any(is_frozen(cgroup) for cgroup in cgroups_of(name, host, container)):
        return False
    for pid in container_pids(name, host, container):
        with contextlib.suppress(OSError, StopIteration):
            lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
            fields = dict(line.split(":\t", 1) for line in lines[:12] if ":\t" in line)
            if fields["Name"] == "counter" and fields["TracerPid"] == "0" and fields["State"][0] in "RSD":
                # Frozen while we were reading?
                return not any(is_frozen(cgroup) for cgroup in cgroups_of(name, host, container))
    return False


class Watch:
    """Looks at the kernel all the time: that no container runs at two hosts, and that no worker but those in `held`
    stands still at a step that it was once ordered to stop at."""

    INTERVAL_S = 0.02

    def __init__(self, lab, counters):
        self.lab, self.counters = lab, counters
        self.two = []         # one line for each time that two were seen
        self.last_ran = {}    # container: the host it was last seen running at
        self.held = set()
        self.continues = False  # whether stopped workers are continued
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def close(self):
        self._end.set()
        self._thread.join()

    def _watch(self):
        looks = 0
        while not self._end.wait(self.INTERVAL_S):
            looks += 1
            for counter in self.counters:
                self._look(counter)
            if self.continues and looks % 25 == 0:
                self._continue_workers()

    def _look(self, counter):
        running = counter.hosts_running()
        if len(running) == 1:
            self.last_ran[counter.id] = running[0]
        if len(running) < 2:
            return
        # It may have moved between two looks. It cannot have moved twice.
        first, second = running[0], running[1]
        again = [counter.runs_at(host) for host in (first, second, first)]
        if all(again):
            self.two.append(f"{counter.id} runs at {first} and {second}")

    def _continue_workers(self):
        for host in self.lab.agents:
            for pid in workers(self.lab.name, host) - self.held:
                if state_of(pid) == "T":
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGCONT)
