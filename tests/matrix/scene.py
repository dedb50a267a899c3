"""One cell, played: a migration is brought to its step, struck, let go, waited for, and judged."""

import signal
import subprocess
import time
from dataclasses import dataclass, field

import cells
import leaks
import network_state
import strikes
from commands import LabError
from counting import Counter, Watch, listing
from lab import Lab, wait_for
from programs import state_of, workers

DEADLINE = "20s"
STEP_S = 30      # until the migration is at its step
SETTLE_S = 30    # after the strike: until everything is as it shall be
STEADY_S = 1     # for so long it has to stay so
LEAKS_S = 15
CLIENT_S = 60    # until the connection carries bytes again: what it retransmits backs off while nobody answers


@dataclass
class Outcome:
    """How a cell ended."""

    cell: cells.Cell
    verdict: str = "failed"  # passed, failed, does not apply
    failures: list = field(default_factory=list)
    place: str = "?"         # of the container in the end: source, target, ended
    silence_s: float = 0.0   # of the container: the longest time in which it wrote nothing
    client_silence_s: float = 0.0
    said: str = ""           # by the command that migrated it
    seconds: float = 0.0
    log: str = ""

    def line(self):
        where = {"does not apply": self.said, "failed": "; ".join(self.failures)}.get(
            self.verdict, f"at the {self.place}" if self.place != "ended" else "ended with its host")
        verdict = "FAILED" if self.verdict == "failed" else self.verdict
        return (f"{verdict:7} {self.cell.name:40} {self.seconds:5.1f} s, silent {self.silence_s:6.2f} s, "
                f"client {self.client_silence_s:6.2f} s: {where}")


class Scene:
    """A lab with one counting container, for cell after cell; after one that failed nobody knows what it is worth."""

    def __init__(self):
        self.lab = Lab(disks=True)
        self.watch = None
        try:
            self.lab.__enter__()
            self.counter = Counter(self.lab)
            self.watch = Watch(self.lab, [self.counter])
            self.run_container("a")
        except BaseException:
            self.close()
            raise

    def close(self):
        if self.watch:
            self.watch.close()
        self.lab.abandon()

    def run_container(self, host):
        self.counter.run(host)
        wait_for(self.counter.counts, "the container to count")
        self.address_space = leaks.address_space_of(self.counter, host)

    # --- what strikes ask for

    @property
    def source(self):
        return self.origin

    @property
    def target(self):
        return "b" if self.origin == "a" else "a"

    def host_of(self, side):
        return self.source if side == "source" else self.target

    def worker_of(self, side):
        found = workers(self.lab.name, self.host_of(side))
        return min(found) if found else None

    def let_go(self):
        """The worker that stands still at the step goes on; so does any later one that gets there."""
        self.watch.continues = True
        if self.standing not in self.watch.held:
            strikes.send(self.standing, signal.SIGCONT)

    # --- a cell

    def play(self, cell):
        began = time.monotonic()
        outcome = Outcome(cell)
        self.marks = {host: agent.log.stat().st_size for host, agent in self.lab.agents.items()}
        command = None
        try:
            command = self._bring_to_step(cell)
            strikes.strike(self, cell)
            self._judge(cell, outcome, command)
        except strikes.DoesNotApply as reason:
            outcome.verdict, outcome.said = "does not apply", str(reason)
            self._abort(command)
        except (LabError, subprocess.TimeoutExpired, OSError) as error:
            outcome.failures.append(str(error))
        finally:
            self.watch.continues = True
            if command and command.poll() is None:
                command.kill()
        if outcome.verdict != "does not apply":
            outcome.verdict = "failed" if outcome.failures else "passed"
        if outcome.failures:
            outcome.log = self._logs()
        outcome.seconds = time.monotonic() - began
        return outcome

    def _bring_to_step(self, cell):
        self.origin = self.counter.where
        self.lost_host, self.standing, self.network_state = None, None, ""
        self.watch.continues = False
        for host, agent in self.lab.agents.items():
            agent.stop()
            agent.start(f"{cell.step}:stop" if host == self.host_of(cell.side) else None)
        self.counter.log.take_silence()
        self.counter.client.ask()
        options = cells.OPTIONS.get(cell.step, ())
        command = self.lab.agents[self.source].popen(
            "migrate", self.counter.id, "--to", self.lab.agents[self.target].address, "--deadline", DEADLINE, *options,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        end = time.monotonic() + STEP_S
        while self.standing is None:
            for pid in workers(self.lab.name, self.host_of(cell.side)):
                if state_of(pid) == "T":
                    self.standing = pid
            if self.standing is None and (command.poll() is not None or time.monotonic() > end):
                said = command.communicate(timeout=10)[1].strip() if command.poll() is not None else "it is under way"
                if options and command.poll() == 1 and options[-1] in said:
                    raise strikes.DoesNotApply(said)
                command.kill()
                raise LabError(f"the migration never came to this step: {said or 'it succeeded'}")
            time.sleep(0.005)
        return command

    def _abort(self, command):
        """The strike did not take place: the migration is to end as it likes."""
        if command is not None:
            self.let_go()
            command.communicate(timeout=60)
            self.counter.where = wait_for(self._settled, "the container to be at one host")

    def _settled(self):
        """The host at which the container runs, as everybody agrees; "ended" if it went with the host that lost power;
        or None."""
        place = self.counter.place()
        if place is not None:
            return place if self.counter.counts() else None
        # A program does not end by itself here.
        present = {host: states for host, states in listing(self.lab).items() if states}
        nowhere = not any(self.counter.pids(host) for host in self.lab.agents)
        if present == {self.lost_host: {self.counter.id: "stopped"}} and nowhere and not self._must_run():
            return "ended"
        return None

    def _must_run(self):
        """Whether there is a host that the container can be at, besides the one that lost power."""
        if self.lost_host is None:
            return True
        # Of a replica that is armed nobody can say after a power cut that it did not run.
        if self.lost_host == self.target and self.step in ("target.released", "target.armed"):
            return False
        # The last thing that it wrote, it wrote here.
        ran_at = self.watch.last_ran.get(self.counter.id, self.origin)
        if ran_at != self.lost_host:
            return True
        return ran_at == self.source and cells.is_after_decision(self.step)

    def _judge(self, cell, outcome, command):
        self.step = cell.step
        end = time.monotonic() + SETTLE_S
        place, since = None, None
        while time.monotonic() < end:
            now = self._settled() if command.poll() is not None else None
            if now is None or now != place:
                place, since = now, time.monotonic()
            elif time.monotonic() - since >= STEADY_S:
                break
            time.sleep(0.2)
        else:
            place = None
        self._note_silence(outcome)
        if place is None:
            ended = "" if command.poll() is not None else "; the command has not ended"
            said = listing(self.lab)
            what = "NEEDS A PERSON" if any(said.values()) else "FORGOTTEN"
            outcome.failures.append(f"{what}: the agents say {said}, it runs at {self.counter.hosts_running()}{ended}")
        else:
            outcome.place = {self.source: "source", self.target: "target"}.get(place, "ended")
            self._judge_command(outcome, command)
        self._judge_count(outcome)
        if place is not None:
            self._judge_connection(outcome)
            self._judge_leaks(outcome, place)
            self._move_once_more(outcome, place)
            self._judge_count(outcome)

    def _note_silence(self, outcome):
        outcome.silence_s = self.counter.log.take_silence()
        outcome.client_silence_s = self.counter.client.ask()["silence_s"]

    def _judge_command(self, outcome, command):
        outcome.said = command.communicate(timeout=10)[1].strip()
        if command.returncode == 0 and outcome.place == "source":
            outcome.failures.append("the command says that it has moved, and it runs at the source")
        if command.returncode == 1 and outcome.place == "target":
            outcome.failures.append(f"the command says that it runs on where it was, and it runs at the target: "
                                    f"{outcome.said}")
        if len(outcome.said.splitlines()) > 1:
            outcome.failures.append(f"the command says more than a line: {outcome.said!r}")

    def _judge_count(self, outcome):
        self.counter.log.read()
        for kind, lines in (("COUNT", self.counter.log.wrong), ("TWO RUNNING", self.watch.two)):
            if lines:
                outcome.failures.append(f"{kind}: {len(lines)} times, first: {lines[0]}")
                lines.clear()

    def _judge_connection(self, outcome):
        """Wherever it lives, its client is still connected, and gets on."""
        if outcome.place == "ended":
            return
        fault = self.counter.connection_fault(CLIENT_S)
        outcome.client_silence_s = max(outcome.client_silence_s, self.counter.client.ask()["silence_s"])
        if fault:
            outcome.failures.append(f"CONNECTION {fault}")
            self.network_state = network_state.describe(self.lab, self.counter)
            self.counter.connect()

    def _judge_leaks(self, outcome, place):
        if place == "ended":  # what is left is its user's
            return
        end = time.monotonic() + LEAKS_S
        while True:
            found = leaks.find_leaks(self.lab, {self.counter: (place, self.address_space)})
            if not found or time.monotonic() > end:
                outcome.failures += [f"LEAK: {line}" for line in found]
                return
            time.sleep(0.2)

    def _move_once_more(self, outcome, place):
        if place == "ended":
            place = self.lost_host
            self.lab.agents[place].cli("rm", self.counter.id, timeout=30)
            self.run_container(place)
        other = "b" if place == "a" else "a"
        self.counter.where = place
        done = run_migration(self.lab, self.counter, place, other)
        if done.returncode != 0:
            outcome.failures.append(f"CANNOT BE MOVED any more: {done.stderr.strip()}")
            return
        self.counter.where = other
        if self.counter.hosts_running() != [other]:
            outcome.failures.append(f"moved once more, it runs at {self.counter.hosts_running()}, not at {other}")
        fault = self.counter.connection_fault(CLIENT_S)
        if fault:
            outcome.failures.append(f"CONNECTION, when it was moved once more: {fault}")

    def _logs(self):
        text = ""
        for host, agent in self.lab.agents.items():
            with open(agent.log, "rb") as file:
                file.seek(self.marks[host])
                side = "source" if host == self.origin else "target"
                text += f"--- agent {host}, the {side}\n{file.read().decode(errors='replace')}\n"
        return text + self.network_state


def run_migration(lab, counter, source, target):
    return lab.agents[source].cli("migrate", counter.id, "--to", lab.agents[target].address, "--deadline", "20s",
                                  check=False, timeout=60)
