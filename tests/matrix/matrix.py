#!/usr/bin/python3
"""Strikes a migration at every step, at everybody, in every way, and judges what becomes of its container.

A cell is STEP/PARTY/ACTION: a migration is brought to the step, where its worker stands still; the strike is made; the
worker is let go; and when the strike is over, everything has 30 s to come to rest. Then: the container runs at exactly
one host, as the agents say and the kernel knows (or was lost with its host's power); it has counted without a number
twice or left out; at no time did two run; its client's connection carries bytes both ways; nothing is left behind; it
can be moved once more. Exit status 0 if that is so in all cells, 1 if not, 2 if called wrongly.
"""

import argparse
import collections
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import random
import re
import signal
import sys
import time
import traceback

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lab"))

import cells  # noqa: E402
from lab import BUILD, LabError  # noqa: E402
from scene import Outcome, Scene  # noqa: E402

CELL_S = 400  # more than all its bounded waits together: a cell that takes longer has met a defect of this program


def parse(arguments):
    parser = argparse.ArgumentParser(prog="tests/run matrix", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print the cells and do nothing")
    parser.add_argument("--cell", action="append", default=[], metavar="STEP/PARTY/ACTION",
                        help="this one only; repeatable; each part may be '*'")
    parser.add_argument("--seed", type=int, help="of the order of the cells, and of --part; default: a new one")
    parser.add_argument("--part", default="1/1", metavar="K/N", help="a pseudo-random Nth of the cells")
    parser.add_argument("--jobs", type=int, default=4, help="labs at once; default 4: cells mostly wait")
    parser.add_argument("--minutes", type=float, help="start no cell after this time")
    parser.add_argument("--table", metavar="FILE", help="write the table of outcomes here, as Markdown")
    parser.add_argument("--logs", metavar="DIR", default=BUILD / "matrix", type=pathlib.Path,
                        help="where the agents' logs of failed cells go; default BUILD/matrix")
    asked = parser.parse_args(arguments)
    part = re.fullmatch(r"(\d+)/(\d+)", asked.part)
    if not part or not 1 <= int(part[1]) <= int(part[2]):
        parser.error(f"--part takes K/N, not {asked.part}")
    if asked.jobs < 1:
        parser.error("--jobs takes 1 or more")
    if asked.seed is None:
        asked.seed = random.SystemRandom().randrange(1 << 32)
    chosen = cells.all_cells()
    if asked.cell:
        chosen = [cell for cell in chosen if any(matches(cell, pattern) for pattern in asked.cell)]
        if not chosen:
            parser.error(f"there is no cell {' or '.join(asked.cell)}; --list names all")
    return asked, cells.part_of(chosen, asked.seed, int(part[1]), int(part[2]))


def matches(cell, pattern):
    words = pattern.split("/")
    return len(words) == 3 and all(word in ("*", own) for word, own in zip(words, cell))


# --- jobs: processes with a lab each, which a cell that failed leaves to its caretaker

def work(pipe):
    scene = None
    while True:
        try:
            cell = pipe.recv()
        except EOFError:
            cell = None
        if cell is None:
            break
        outcome = Outcome(cell)
        try:
            scene = scene or Scene()
            outcome = scene.play(cell)
        except (KeyboardInterrupt, SystemExit):
            break
        except Exception as error:  # of this program: it is a cell's failure like another, and is told
            where = traceback.extract_tb(error.__traceback__)[-1]
            outcome.failures.append(f"the harness: {type(error).__name__}: {error} ({where.name}:{where.lineno})")
            outcome.log = traceback.format_exc()
        if outcome.verdict == "failed" and scene is not None:
            scene.close()
            scene = None
        pipe.send(outcome)
    if scene is not None:
        scene.close()


class Job:
    def __init__(self):
        # Spawned: a forked one would hold the ends of the others' pipes, and never hear that we are gone.
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs,))
        self.process.start()
        theirs.close()
        self.cell = None

    def give(self, cell):
        self.cell, self.since = cell, time.monotonic()
        self.pipe.send(cell)

    def result(self):
        """Once the pipe is ready; a process that died is a failed cell."""
        try:
            outcome = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            outcome = Outcome(self.cell, failures=["the harness: the process of this job died"])
        self.cell = None
        return outcome

    def is_overdue(self):
        return self.cell is not None and time.monotonic() - self.since > CELL_S

    def close(self):
        if self.process.is_alive():
            try:
                self.pipe.send(None)
            except OSError:
                pass
            self.process.join(30)
        if self.process.is_alive():
            self.process.kill()  # its caretaker sees that
        self.process.join()
        self.pipe.close()


def run_cells(todo, jobs, end, tell):
    """Calls `tell` with each outcome. Returns the cells for which there was no time."""
    waiting = collections.deque(todo)
    working = []
    try:
        while waiting or any(job.cell for job in working):
            in_time = time.monotonic() < end
            while in_time and waiting and sum(job.cell is not None for job in working) < jobs:
                job = next((job for job in working if job.cell is None), None)
                if job is None:
                    job = Job()
                    working.append(job)
                job.give(waiting.popleft())
            busy = [job for job in working if job.cell]
            if not busy:
                break
            ready = multiprocessing.connection.wait([job.pipe for job in busy], timeout=1)
            for job in busy:
                if job.pipe in ready:
                    tell(job.result())
                elif job.is_overdue():
                    tell(Outcome(job.cell, failures=[f"the harness: the cell took more than {CELL_S} s"]))
                    job.process.kill()
                else:
                    continue
                if not job.process.is_alive():
                    job.close()
                    working.remove(job)
    finally:
        for job in working:
            job.close()
    return list(waiting)


# --- what is told

def table(outcomes, seed):
    """In Markdown: a row for each step, a column for each strike."""
    found = {outcome.cell: outcome for outcome in outcomes}
    strikes = [strike for strike in cells.STRIKES if any(cell[1:] == strike for cell in found)]
    lines = [f"Seed {seed}; {counts(outcomes)}.", "",
             "Where the container is in the end, and the longest time in seconds in which it was silent.", "",
             "| step | " + " | ".join(f"{party} {action}" for party, action in strikes) + " |",
             "|---" * (len(strikes) + 1) + "|"]
    for step in cells.steps():
        row = [found.get(cells.Cell(step, *strike)) for strike in strikes]
        if any(row):
            lines.append(f"| {step} | " + " | ".join(entry(outcome) for outcome in row) + " |")
    failed = [outcome for outcome in outcomes if outcome.verdict == "failed"]
    if failed:
        lines += ["", "| failed | why |", "|---|---|"]
        lines += [f"| {outcome.cell.name} | {'; '.join(outcome.failures)} |".replace("\n", " ")
                  for outcome in sorted(failed, key=lambda outcome: outcome.cell)]
    return "\n".join(lines) + "\n"


def entry(outcome):
    if outcome is None or outcome.verdict == "does not apply":
        return ""
    if outcome.verdict == "failed":
        return "**failed**"
    return "ended" if outcome.place == "ended" else f"{outcome.place} {outcome.silence_s:.2f}"


def counts(outcomes):
    number = collections.Counter(outcome.verdict for outcome in outcomes)
    return f"{number['passed']} passed, {number['failed']} failed, {number['does not apply']} do not apply"


def main(arguments):
    asked, todo = parse(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if asked.list:
        print("\n".join(cell.name for cell in todo))
        return 0
    print(f"seed {asked.seed}, {len(todo)} cells, {asked.jobs} at once", flush=True)
    outcomes = []

    def tell(outcome):
        outcomes.append(outcome)
        print(f"{len(outcomes):3}/{len(todo)} {outcome.line()}", flush=True)
        if outcome.log:
            asked.logs.mkdir(parents=True, exist_ok=True)
            (asked.logs / (outcome.cell.name.replace("/", ":") + ".log")).write_text(outcome.log)

    end = time.monotonic() + asked.minutes * 60 if asked.minutes is not None else float("inf")
    left = run_cells(todo, asked.jobs, end, tell)
    text = table(outcomes, asked.seed)
    if asked.table:
        pathlib.Path(asked.table).write_text(text)
    print("\n" + text)
    failed = any(outcome.verdict == "failed" for outcome in outcomes)
    if failed:
        print(f"logs of the failed cells: {asked.logs}; one again: tests/run matrix --cell STEP/PARTY/ACTION")
    late = f"; {len(left)} were not started within {asked.minutes:g} minutes" if left else ""
    print(f"matrix: seed {asked.seed}: {len(todo) - len(left)} of {len(todo)} cells run, {counts(outcomes)}{late}")
    return 1 if failed else 0


if __name__ == "__main__":
    if os.geteuid() != 0:
        print("matrix: needs root", file=sys.stderr)
        sys.exit(2)
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
    except (LabError, ValueError) as failure:
        print(f"matrix: {failure}", file=sys.stderr)
        sys.exit(2)
