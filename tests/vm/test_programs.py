"""Tests that need what a development machine may not have: RDMA devices, soft-dirty bits, an older kernel. All of them
run in one guest for each kernel."""

import json
import unittest

from base import ROOT, GuestCase

# With what of each is for development machines as well left out: what needs no device, and what no kernel matters to.
# Emulation makes each of the rounds ten times longer; one cutover instead of six remains.
PROGRAMS = {
    "unit/transport/link_choice_test": "-*AHostWithoutADevice*",
    "unit/transport/rdma_link_test": "*",
    "unit/transport/rdma_hostile_source_test": "*",
    "unit/transport/rdma_hostile_target_test": "*",
    "unit/transport/rdma_cable_test": "*",
    "integration/memory/memory_trackers_test": "-*/none",
    "integration/memory/memory_rounds_test": "*ReplicaEqualsTheFrozenSource*-*/none",
}
# PROGRAM FILTER...; all programs run, also after one has failed. There is swap space for the test that wants it.
SCRIPT = r"""
modprobe zram && echo 256M >/sys/block/zram0/disksize && mkswap /dev/zram0 >/dev/null && swapon /dev/zram0 || exit 1
export GODWIT_MEMORY_CUTOVERS=1
status=0
while [ $# -gt 0 ]; do
  name=${1##*/}
  SECONDS=0
  "$1" --gtest_brief=1 --gtest_filter="$2" --gtest_output="json:$GODWIT_SHARE/$name.json" >"/tmp/$name.log" 2>&1 || {
    status=1
    tail -n 40 "/tmp/$name.log"
  }
  echo "$name: $SECONDS s"
  shift 2
done
exit $status
"""


def of_uffd_alone(name):
    """A test that the other trackers skip: they compare all mapped shared memory."""
    return name.startswith("IdleSharedMemoryIsNotRead/") and not name.endswith("/uffd")


class Programs(GuestCase):
    def run_all(self, kernel, may_skip):
        words = [word for name, choice in PROGRAMS.items() for word in (str(ROOT / "build/tests" / name), choice)]
        done = self.vm("run", "--kernel", kernel, "--rdma", command=["bash", "-c", SCRIPT, "programs", *words])
        self.assertEqual(done.returncode, 0, self.shown)
        print(done.stdout, end="", flush=True)
        for program in PROGRAMS:
            report = json.loads((self.share / f"{program.rpartition('/')[2]}.json").read_text())
            tests = [test for suite in report["testsuites"] for test in suite["testsuite"]]
            skipped = [test["name"] for test in tests if test["result"] == "SKIPPED" and not may_skip(test["name"])]
            self.assertEqual(skipped, [], f"{program}: {self.shown}")
            self.assertGreater(len(tests), 1, program)

    def test_on_linux_6_12(self):
        self.run_all("6.12", of_uffd_alone)

    def test_on_linux_6_1(self):
        # WP_ASYNC came with 6.7
        self.run_all("6.1", lambda name: name.endswith("/uffd") or of_uffd_alone(name))


if __name__ == "__main__":
    unittest.main()
