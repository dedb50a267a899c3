"""What the tests with guests share."""

import pathlib
import signal
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
VM = ROOT / "tests/lab/vm"
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that folders and guests go when tests/run is ended


class GuestCase(unittest.TestCase):
    """Each test has a folder that its guests share with it."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="godwit-share-")
        self.addCleanup(folder.cleanup)
        self.share = pathlib.Path(folder.name)

    def vm(self, mode, *options, command, timeout=400):
        """Returns the CompletedProcess of tests/lab/vm; what it printed is shown if the test fails."""
        arguments = [VM, mode, "--share", self.share, "--timeout", timeout, *options, "--", *command]
        done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True, cwd=ROOT)
        self.shown = f"\n{done.stdout}{done.stderr}"
        return done
