#!/usr/bin/python3
"""Migrations at random between three hosts, while everything fails at random; never two, never none.

Three containers that count move to and fro. Beside them a troublemaker kills workers and agents (a killed agent's
successor comes 2 s later), restarts agents, stops a worker or an agent for a while, and cuts the link between two hosts
one way or both. It ends after 300 migrations that succeeded, or when the minutes are over. Then everything is let alone
and has 60 s to come to rest.

Judged: the kernel never saw a container run at two hosts; no number was written twice or left out; nobody was silent
for longer than what was struck meanwhile lasted and 30 s more; every connection still carries bytes both ways; nothing
is left behind; each container can be moved to each host. The seed gives the order of events, not their times. Exit
status 0 if all that is so, 1 if not, 2 if called wrongly.
"""

import argparse
import collections
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lab"))

import leaks  # noqa: E402
from counting import Counter, Watch, listing  # noqa: E402
from lab import BUILD, Lab, LabError, wait_for  # noqa: E402
from link import cut_way, mend_way  # noqa: E402
from programs import workers  # noqa: E402
from strikes import send  # noqa: E402

HOSTS = ("a", "b", "c")
MIGRATIONS = 300
CONTAINERS = 3
DEADLINE_S = 15
GRACE_S = 30       # a silence may last as long as what was struck meanwhile, and this
REST_S = 60
PAUSE_S = (0.2, 3)  # between two strikes
LONGEST_S = 10      # of a cut, or a stop


def parse(arguments):
    parser = argparse.ArgumentParser(prog="tests/run chaos", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="the longest time; default 60")
    parser.add_argument("--migrations", type=int, default=MIGRATIONS, help=f"that are to succeed; default {MIGRATIONS}")
    parser.add_argument("--seed", type=int, help="default: a new one")
    parser.add_argument("--logs", metavar="DIR", default=BUILD / "chaos", type=pathlib.Path,
                        help="where the agents' logs go if something was wrong; default BUILD/chaos")
    asked = parser.parse_args(arguments)
    if asked.seed is None:
        asked.seed = random.SystemRandom().randrange(1 << 32)
    return asked


class Trouble:
    """Strikes one after the other. Each returns when it is over; `began` and `ended` are kept, for the silences."""

    def __init__(self, lab, seed, tell):
        self.lab, self.random, self.tell = lab, random.Random(seed), tell
        self.strikes = []  # (began, ended), in time.time()
        self.number = collections.Counter()
        self.error = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self):
        """When what is broken is whole again."""
        self._end.set()
        self._thread.join()

    def _run(self):
        kinds = [self.kill_worker, self.kill_agent, self.restart_agent, self.stop_worker, self.stop_agent, self.cut,
                 self.cut_both_ways]
        weights = [4, 3, 1, 1, 1, 2, 2]
        try:
            while not self._end.wait(self.random.uniform(*PAUSE_S)):
                strike = self.random.choices(kinds, weights)[0]
                host, other = self.random.sample(HOSTS, 2)
                seconds = self.random.uniform(0.2, LONGEST_S)
                began = time.time()
                self.tell(f"{strike.__name__} {host} {other if strike in (self.cut, self.cut_both_ways) else ''}")
                strike(host, other, seconds)
                self.number[strike.__name__] += 1
                self.strikes.append((began, time.time()))
        except (LabError, OSError, subprocess.TimeoutExpired) as error:
            self.error = f"the lab is broken: {error}"

    def lasted(self, began, ended):
        """How long strikes lasted, in all, between two moments and shortly before."""
        return sum(min(end, ended) - max(begin, began - GRACE_S) for begin, end in self.strikes
                   if end > began - GRACE_S and begin < ended)

    def kill_worker(self, host, _other, _seconds):
        # There is none between migrations: one that comes soon is as good.
        end = time.monotonic() + 3
        while time.monotonic() < end:
            found = workers(self.lab.name, host)
            if found:
                time.sleep(self.random.uniform(0, 0.4))
                send(self.random.choice(sorted(found)), signal.SIGKILL)
                return
            time.sleep(0.01)

    def kill_agent(self, host, _other, _seconds):
        self.lab.agents[host].kill()
        time.sleep(2)
        self.lab.agents[host].start()

    def restart_agent(self, host, _other, _seconds):
        self.lab.agents[host].stop()
        self.lab.agents[host].start()

    def stop_worker(self, host, _other, seconds):
        for pid in workers(self.lab.name, host):
            send(pid, signal.SIGSTOP)
            time.sleep(seconds)
            send(pid, signal.SIGCONT)
            return

    def stop_agent(self, host, _other, seconds):
        pid = self.lab.agents[host].process.pid
        send(pid, signal.SIGSTOP)
        time.sleep(seconds)
        send(pid, signal.SIGCONT)

    def cut(self, host, other, seconds):
        cut_way(self.lab, host, other)
        time.sleep(seconds)
        mend_way(self.lab, host, other)

    def cut_both_ways(self, host, other, seconds):
        cut_way(self.lab, host, other)
        cut_way(self.lab, other, host)
        time.sleep(seconds)
        mend_way(self.lab, host, other)
        mend_way(self.lab, other, host)


class Mover:
    """Moves one container, to a host chosen at random, until it is told to end."""

    SAID = {0: "moved", 1: "failed", 3: "refused", 4: "no agent", 5: "not known"}  # by exit status of `godwit migrate`

    def __init__(self, lab, counter, watch, seed):
        self.lab, self.counter, self.watch = lab, counter, watch
        self.random = random.Random(seed)
        self.said = collections.Counter()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self):
        self._end.set()
        self._thread.join()

    def _run(self):
        while not self._end.wait(self.random.uniform(0.1, 2)):
            source = self.watch.last_ran.get(self.counter.id, "a")
            target = self.random.choice([host for host in HOSTS if host != source])
            self.said[self._move(source, target)] += 1

    def _move(self, source, target):
        try:
            done = self.lab.agents[source].cli("migrate", self.counter.id, "--to", self.lab.agents[target].address,
                                               "--deadline", f"{DEADLINE_S}s", check=False, timeout=120)
        except subprocess.TimeoutExpired:
            return "no word within 120 s"
        return self.SAID.get(done.returncode, "other")


class Silence:
    """Reads the logs all the time, and finds silences that nothing excuses."""

    LOOK_S = 0.5

    def __init__(self, counters, trouble):
        self.counters, self.trouble = counters, trouble
        self.longest = dict.fromkeys([counter.id for counter in counters], 0.0)
        self.wrong = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self):
        self._end.set()
        self._thread.join()

    def _run(self):
        while not self._end.wait(self.LOOK_S):
            for counter in self.counters:
                self.look(counter)

    def look(self, counter):
        before_us = counter.log.time_us
        silence = counter.log.take_silence()
        if silence <= self.longest[counter.id] or before_us is None:
            return
        began = before_us / 1e6
        self.longest[counter.id] = silence
        allowed = GRACE_S + self.trouble.lasted(began, began + silence)
        if silence > allowed:
            self.wrong.append(f"{counter.id} was silent for {silence:.1f} s; strikes lasted {allowed - GRACE_S:.1f} s")


def play(asked, lab):
    """Returns what was wrong, a line each."""
    began = time.monotonic()
    end = began + asked.minutes * 60
    counters = [Counter(lab, f"count{number}", f"10.77.0.{20 + number}") for number in range(CONTAINERS)]
    for counter, host in zip(counters, HOSTS):
        counter.run(host)
        wait_for(counter.counts, "the container to count")
    spaces = {counter.id: leaks.address_space_of(counter, host) for counter, host in zip(counters, HOSTS)}
    watch = Watch(lab, counters)
    movers = [Mover(lab, counter, watch, asked.seed + number) for number, counter in enumerate(counters, 1)]

    def moved():
        return sum(mover.said["moved"] for mover in movers)

    def tell(text):
        print(f"{time.monotonic() - began:7.1f} s, {moved():3} migrations: {text}", flush=True)

    trouble = Trouble(lab, asked.seed, tell)
    silence = Silence(counters, trouble)
    try:
        while moved() < asked.migrations and time.monotonic() < end and not trouble.error:
            time.sleep(0.2)
    finally:
        trouble.close()
        for mover in movers:
            mover.close()
    tell("at rest from now on")
    wrong = [trouble.error] if trouble.error else []
    wrong += rest(lab, counters, spaces)
    silence.close()
    watch.close()
    for counter in counters:
        counter.log.read()
        wrong += counter.log.wrong[:5]
    wrong += watch.two[:5] + silence.wrong
    said = sum((mover.said for mover in movers), collections.Counter())
    print(f"migrations: {', '.join(f'{number} {what}' for what, number in said.most_common())}")
    print(f"strikes: {', '.join(f'{number} {what}' for what, number in trouble.number.most_common())}")
    print(f"longest silence: {', '.join(f'{name} {seconds:.1f} s' for name, seconds in silence.longest.items())}")
    return wrong


def rest(lab, counters, spaces):
    """Everything comes to rest, and works."""
    wrong = []
    end = time.monotonic() + REST_S
    for counter in counters:
        while counter.place() is None and time.monotonic() < end:
            time.sleep(0.5)
        if counter.place() is None:
            wrong.append(f"NEEDS A PERSON: {counter.id} runs at {counter.hosts_running()}, "
                         f"the agents say {listing(lab)}")
            continue
        fault = counter.connection_fault(REST_S)
        if fault:
            wrong.append(f"the connection of {counter.id} is {fault}")
    if not wrong:
        wrong += move_everywhere(lab, counters)
        wrong += await_no_leaks(lab, counters, spaces)
    return wrong


def move_everywhere(lab, counters):
    wrong = []
    for counter in counters:
        for _ in HOSTS:
            source = counter.place()
            if source is None:
                wrong.append(f"{counter.id} is at no single host between migrations that nothing disturbs")
                break
            target = HOSTS[(HOSTS.index(source) + 1) % len(HOSTS)]
            done = lab.agents[source].cli("migrate", counter.id, "--to", lab.agents[target].address, check=False)
            if done.returncode != 0:
                wrong.append(f"{counter.id} cannot be moved from {source} to {target} any more: {done.stderr.strip()}")
    return wrong


def await_no_leaks(lab, counters, spaces):
    end = time.monotonic() + REST_S
    while True:
        found = leaks.find_leaks(lab, {counter: (counter.place(), spaces[counter.id]) for counter in counters})
        if not found or time.monotonic() > end:
            return found
        time.sleep(1)


def main(arguments):
    asked = parse(arguments)
    print(f"seed {asked.seed}", flush=True)
    lab = Lab(hosts=HOSTS)
    try:
        lab.__enter__()
        wrong = play(asked, lab)
        if wrong:
            asked.logs.mkdir(parents=True, exist_ok=True)
            for host, agent in lab.agents.items():
                (asked.logs / f"{asked.seed}-{host}.log").write_bytes(agent.log.read_bytes())
    finally:
        lab.abandon()
    for line in wrong:
        print(f"WRONG: {line}")
    verdict = f"{len(wrong)} things are wrong; logs in {asked.logs}" if wrong else "all is well"
    print(f"chaos: seed {asked.seed}: {verdict}")
    return 1 if wrong else 0


if __name__ == "__main__":
    if os.geteuid() != 0:
        print("chaos: needs root", file=sys.stderr)
        sys.exit(2)
    sys.exit(main(sys.argv[1:]))
