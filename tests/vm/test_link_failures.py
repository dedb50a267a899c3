"""The network of a migration over RDMA goes, at each step of the protocol."""

import json
import unittest

from base import ROOT, GuestCase

# Where the source is when the cable is pulled; at two steps one direction of it only. All steps with all directions take
# nine minutes more: tests/lab/vm-files/pull.
UNDECIDED = ("source.prepare", "source.round0", "source.round0.sent", "source.round", "source.round.sent/out",
             "source.cutover", "source.frozen", "source.pages/in")
DECISIVE = ("source.complete", "source.ready", "source.committed")


class LinkFailures(GuestCase):
    def test_the_cable_is_pulled_at_each_step(self):
        # Beside the steps: a worker that dies while its tracker keeps the container standing still.
        words = ["source.standstill/kill", *UNDECIDED, *DECISIVE]
        done = self.vm("pair", command=[ROOT / "tests/lab/vm-files/pull", *words], timeout=600)
        self.assertEqual(done.returncode, 0, self.shown)
        print(done.stdout, end="", flush=True)
        report = json.loads((self.share / "pull.json").read_text())
        self.assertEqual([tried["step"] for tried in report["steps"]], words)
        for tried in report["steps"]:
            moved = tried["at"] == "b"
            self.assertFalse(moved and tried["step"] not in DECISIVE, tried)
            self.assertEqual(len(tried["error"].splitlines()), 0 if moved else 1, tried)
            if not moved and not tried["step"].endswith("/kill"):
                self.assertRegex(tried["error"], "does not answer any more|reach the target", tried)
        self.assertTrue(report["verified"], self.shown)
        self.assertEqual((report["wrong"], report["lost"], report["reconnects"]), (0, 0, 0), self.shown)


if __name__ == "__main__":
    unittest.main()
