"""The network of a migration over RDMA goes, at each step of the protocol."""

import json
import unittest

from base import ROOT, GuestCase

# Where the source is when the cable is pulled: before the target is asked, with the pages of the first round sent, with
# those of a later one sent, frozen, with the last pages sent, with everything sent, and with the decision on disk. The
# steps of engine/fault.h between them do the same and are left out for their time, some 25 s each.
STEPS = ("source.prepare", "source.round0.sent", "source.round.sent", "source.frozen", "source.pages",
         "source.complete", "source.committed")


class LinkFailures(GuestCase):
    def test_the_cable_is_pulled_at_each_step(self):
        # Beside the steps: a worker that dies while its tracker keeps the container standing still.
        words = ["source.standstill/kill", *STEPS]
        done = self.vm("pair", command=[ROOT / "tests/lab/vm-files/pull", *words], timeout=600)
        self.assertEqual(done.returncode, 0, self.shown)
        print(done.stdout, end="", flush=True)
        report = json.loads((self.share / "pull.json").read_text())
        self.assertEqual([tried["step"] for tried in report["steps"]], words)
        for tried in report["steps"]:
            moved = tried["at"] == "b"
            self.assertFalse(moved and tried["step"] in STEPS[:-2], tried)
            self.assertEqual(len(tried["error"].splitlines()), 0 if moved else 1, tried)
        self.assertTrue(report["verified"], self.shown)
        self.assertEqual((report["wrong"], report["lost"], report["reconnects"]), (0, 0, 0), self.shown)


if __name__ == "__main__":
    unittest.main()
