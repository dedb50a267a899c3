"""What a migration can leave behind, asked from the kernel and the file system after a cell."""

import contextlib
import os
import pathlib

from commands import run_command
from programs import arguments_of, cgroups, pids_of_network

KEPT_BY_A_HOST = {"lo", "uplink", "godwit0"}


def find_leaks(lab, counters):
    """One line each. `counters`: {counter: (the host that has it, its address space as it was at first)}."""
    found = []
    for host, agent in lab.agents.items():
        here = sorted(counter.id for counter, (home, _) in counters.items() if home == host)
        found += compare(f"interfaces at {host}", interfaces(lab, host), len(here))
        found += compare(f"cgroups at {host}", containers_with_cgroups(lab, host), here)
        for directory in ("containers", "bundles", "runc"):
            found += compare(f"ROOT/{directory} at {host}", names_in(agent.root / directory), here)
        found += [f"ROOT/network at {host} has {name}" for name in names_in(agent.root / "network")
                  if name.split(".")[0] not in here]
        strangers = pids_of_network(lab.name, host) - {agent.process.pid}
        found += [f"process {pid} stays at {host}: {b' '.join(arguments_of(pid)).decode(errors='replace')}"
                  for pid in sorted(strangers)]
    for counter, (home, space) in counters.items():
        found += compare(f"what {counter.id} has mapped", address_space_of(counter, home), space)
        found += traced(counter, home)
    return found


def compare(what, seen, wanted):
    seen_as = len(seen) if isinstance(wanted, int) else seen
    return [] if seen_as == wanted else [f"{what}: {seen}, not {wanted}"]


def names_in(directory):
    with contextlib.suppress(FileNotFoundError):
        return sorted(os.listdir(directory))
    return []


def interfaces(lab, host):
    lines = run_command(["ip", "-n", f"{lab.name}-{host}", "-o", "link"]).stdout.splitlines()
    return [name for name in (line.split(": ")[1].split("@")[0] for line in lines) if name not in KEPT_BY_A_HOST]


def containers_with_cgroups(lab, host):
    top = f"godwit-{lab.name}-{host}"
    return sorted({path.name for path in cgroups(lab.name, host) if path.parent.name == top})


def address_space_of(counter, home):
    """The ranges that the container's processes have mapped, whatever is in them; without what grows by itself."""
    spaces = []
    for pid in sorted(counter.pids(home)):
        ranges = []
        with contextlib.suppress(OSError):
            for line in pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines():
                words = line.split(None, 5)
                if words[-1] in ("[heap]", "[stack]", "[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]"):
                    continue
                start, end = words[0].split("-")
                if ranges and ranges[-1][1] == start:
                    ranges[-1] = (ranges[-1][0], end)
                else:
                    ranges.append((start, end))
        if ranges:
            spaces.append(["-".join(both) for both in ranges])
    return spaces


def traced(counter, home):
    found = []
    for pid in counter.pids(home):
        with contextlib.suppress(OSError):
            for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("TracerPid:") and line.split()[1] != "0":
                    found.append(f"process {pid} of the container is traced by {line.split()[1]}")
    return found
