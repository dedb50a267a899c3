"""Which cells the matrix has: every step of the product, everybody who can be struck there, everything that can be done
to him."""

import pathlib
import random
import re
import subprocess
from typing import NamedTuple

from lab import BUILD, ROOT

PROCESSES = ("source-worker", "source-agent", "target-worker", "target-agent", "both-agents")
STRIKES = (*((party, action) for party in PROCESSES for action in ("kill", "stop")),
           ("link", "cut-to-target"), ("link", "cut-to-source"), ("link", "cut"),
           ("source-disk", "full"), ("target-disk", "full"),
           ("source-host", "power-loss"), ("target-host", "power-loss"))
# What a step needs to be reached at all.
OPTIONS = {"source.standstill": ("--tracker", "soft-dirty")}
STEP = re.compile(r"(source|target)\.[a-z0-9_.-]+")
DECISION = "source.committed"


class Cell(NamedTuple):
    step: str
    party: str
    action: str

    @property
    def name(self):
        return "/".join(self)

    @property
    def side(self):
        """Whose worker gets to the step."""
        return self.step.split(".")[0]


def steps():
    """In the order of a migration, the decision and what follows it last."""
    told = subprocess.run([BUILD / "tools/godwitd/godwitd", "steps"], capture_output=True, text=True, timeout=20)
    if told.returncode == 0:
        names = told.stdout.split()
    else:
        names = steps_in_sources()
    strange = [name for name in names if not STEP.fullmatch(name)]
    if strange or DECISION not in names:
        raise ValueError(f"steps are called source.NAME or target.NAME, and {DECISION} is one: {names}")
    return list(dict.fromkeys(names))


def steps_in_sources():
    """For a product that cannot tell its steps: what stands in its calls of at_step()."""
    found = set()
    for path in sorted(pathlib.Path(ROOT, "engine").rglob("*.cc")):
        for call in re.findall(r"at_step\((.*?)deadline_ns_\)", path.read_text(), re.DOTALL):
            found.update(match[1] for match in re.finditer(rf'"({STEP.pattern})"', call))
    return sorted(found - {DECISION}) + [DECISION]


def all_cells():
    return [Cell(step, party, action) for step in steps() for party, action in STRIKES]


def part_of(cells, seed, part, parts):
    """A pseudo-random one of `parts` parts of equal size; together they are all."""
    shuffled = sorted(cells)
    random.Random(seed).shuffle(shuffled)
    return shuffled[part - 1::parts]


def is_after_decision(step):
    names = steps()
    return names.index(step) >= names.index(DECISION)
