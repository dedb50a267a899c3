"""A test that is killed leaves nothing: no process, namespace, cgroup, mount, or file."""

import glob
import pathlib
import subprocess
import sys
import tempfile
import unittest

from base import wait_for

LAB = pathlib.Path(__file__).resolve().parent.parent / "lab"
OWNER = f"""
import sys
sys.path.insert(0, {str(LAB)!r})
from lab import Lab
with Lab() as lab:
    lab.run("redis", "redis", "10.77.0.10")
    lab.redis_client("10.77.0.10", rate=100, preload=1 << 20, load=100)
    print(lab.directory, flush=True)
    sys.stdin.read()
"""


def processes_of(text):
    """Processes with `text` in their command line or, as those of containers, in the name of their cgroup."""
    found = []
    for path in glob.glob("/proc/[0-9]*"):
        try:
            content = pathlib.Path(path, "cmdline").read_bytes() + pathlib.Path(path, "cgroup").read_bytes()
        except OSError:
            continue
        if text.encode() in content:
            found.append(path)
    return found


class Caretaker(unittest.TestCase):
    def remains(self, name, directory):
        mounts = pathlib.Path("/proc/self/mountinfo").read_text()
        return [*processes_of(name), *glob.glob(f"/run/netns/{name}-*"), *glob.glob(f"/sys/fs/cgroup/*{name}-*"),
                *glob.glob(f"/sys/fs/cgroup/*/*{name}-*"), *glob.glob(f"{tempfile.gettempdir()}/*{name}-*"),
                *[line for line in mounts.splitlines() if directory in line]]

    def test_a_killed_owner(self):
        owner = subprocess.Popen([sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                 text=True)
        self.addCleanup(owner.stdin.close)
        self.addCleanup(owner.stdout.close)
        directory = owner.stdout.readline().strip()
        name = f"gw{owner.pid}"
        before = self.remains(name, directory)
        for kind in ("/proc/", "/run/netns/", "/sys/fs/cgroup/", tempfile.gettempdir()):
            self.assertTrue([one for one in before if one.startswith(kind)], f"nothing to remove in {kind}")
        owner.kill()
        owner.wait()
        wait_for(lambda: not self.remains(name, directory), "the caretaker to remove the lab")


if __name__ == "__main__":
    unittest.main()
