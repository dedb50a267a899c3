"""The programs of one host of a lab, as the kernel knows them: no agent is asked."""

import contextlib
import glob
import os
import pathlib
import signal
import time

from commands import LabError

PATIENCE_S = 20


def cgroups(name, host):
    """Those of a host's containers, in all hierarchies, v1 and v2; children before parents."""
    tops = glob.glob(f"/sys/fs/cgroup/godwit-{name}-{host}") + glob.glob(f"/sys/fs/cgroup/*/godwit-{name}-{host}")
    return [pathlib.Path(path) for top in tops for path, _, _ in os.walk(top, topdown=False)]


def pids_in(cgroup):
    with contextlib.suppress(OSError):
        return {int(pid) for pid in (cgroup / "cgroup.procs").read_text().split() if pid != "0"}
    return set()


def all_pids():
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def pids_of_network(name, host):
    """Programs in the host's own network namespace: agents, workers, and what they have started. No containers."""
    try:
        wanted = os.stat(f"/run/netns/{name}-{host}").st_ino
    except OSError:
        return set()
    found = set()
    for pid in all_pids():
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{pid}/ns/net").st_ino == wanted:
                found.add(pid)
    return found


def pids_of_containers(name, host):
    return set().union(*(pids_in(cgroup) for cgroup in cgroups(name, host)))


def pids_of_host(name, host):
    return pids_of_network(name, host) | pids_of_containers(name, host)


def arguments_of(pid):
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return []


def workers(name, host):
    return {pid for pid in pids_of_network(name, host) if arguments_of(pid)[:2] == [b"godwitd", b"worker"]}


def state_of(pid):
    """A letter (proc(5)), or None if there is no such process."""
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    return None


def end_programs(name, host):
    """At once, those in frozen cgroups too: what is frozen dies when it is thawed, before it runs an instruction. The
    cgroups go as well. Containers last, so that no agent sees the end of one."""
    end = time.monotonic() + PATIENCE_S
    while True:
        living = [*pids_of_network(name, host), *pids_of_containers(name, host)]
        for pid in living:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for cgroup in cgroups(name, host):
            with contextlib.suppress(OSError):
                for file, word in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
                    if (cgroup / file).exists():
                        (cgroup / file).write_text(word)
                cgroup.rmdir()
        # What has ended may wait for whoever started it, which may be us.
        if all(state_of(pid) in (None, "Z") for pid in living) and not cgroups(name, host):
            return
        if time.monotonic() > end:
            raise LabError(f"programs of host {host} do not end: {sorted(living)}")
        time.sleep(0.01)
