"""Redis moves from one guest to another and back under a client's hands: over RDMA by each tracker, and over TCP."""

import json
import unittest

from base import ROOT, GuestCase


class Migration(GuestCase):
    def migrate(self, kernel, *moves):
        done = self.vm("pair", "--kernel", kernel, timeout=400,
                       command=[ROOT / "tests/lab/vm-files/migrate", "--memory", "16", "--downtime", "2s", *moves])
        self.assertEqual(done.returncode, 0, self.shown)
        report = json.loads((self.share / "migrate.json").read_text())
        print(done.stdout, end="", flush=True)
        self.assertEqual(len(report["migrations"]), len(moves))
        for asked, made in zip(moves, report["migrations"]):  # "tcp/uffd" is made by tcp+io_uring
            transport, tracker = asked.split("/")
            self.assertTrue(made["transport"].startswith(transport), made["transport"])
            self.assertEqual(made["tracker"], tracker)
        self.assertTrue(all(m["verified"] for m in report["migrations"]), self.shown)
        self.assertEqual((report["wrong"], report["lost"], report["reconnects"]), (0, 0, 0), self.shown)
        self.assertGreater(report["answered"], 100, self.shown)

    def test_on_linux_6_12(self):
        self.migrate("6.12", "rdma/soft-dirty", "rdma/uffd", "tcp/uffd")

    def test_on_linux_6_1(self):
        self.migrate("6.1", "rdma/uffd-sync", "rdma/soft-dirty", "tcp/uffd-sync")


if __name__ == "__main__":
    unittest.main()
