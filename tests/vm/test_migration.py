"""Redis moves from one guest to another and back under a client's hands."""

import json
import unittest

from base import ROOT, GuestCase


class Migration(GuestCase):
    def migrate(self, kernel, *moves):
        done = self.vm("pair", "--kernel", kernel, command=[ROOT / "tests/lab/vm-files/migrate", *moves], timeout=900)
        self.assertEqual(done.returncode, 0, self.shown)
        report = json.loads((self.share / "migrate.json").read_text())
        print(done.stdout, end="", flush=True)
        self.assertEqual(len(report["migrations"]), len(moves))
        for asked, made in zip(moves, report["migrations"]):  # as in tcp/uffd, and tcp+io_uring, uffd-async
            transport, tracker = asked.split("/")
            self.assertTrue(made["transport"].startswith(transport), made["transport"])
            self.assertTrue(made["tracker"].startswith(tracker), made["tracker"])
        self.assertTrue(all(m["verified"] for m in report["migrations"]), self.shown)
        self.assertEqual((report["wrong"], report["lost"], report["reconnects"]), (0, 0, 0), self.shown)
        self.assertGreater(report["answered"], 100, self.shown)

    def test_by_tcp(self):
        self.migrate("6.12", "tcp/uffd", "tcp/uffd")


if __name__ == "__main__":
    unittest.main()
