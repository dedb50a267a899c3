"""The lab itself: what comes in and out of a guest, what a cut cable is, and that nothing stays."""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest

from base import ROOT, VM, GuestCase

sys.path.insert(0, str(ROOT / "tests/lab/vm-files"))
from machine import Guest  # noqa: E402


class OneGuest(GuestCase):
    def test_status_and_streams(self):
        done = self.vm("run", command=["sh", "-c", "uname -r; pwd; touch written; echo kept >$GODWIT_SHARE/kept;"
                                                   "echo complaint >&2; sleep 1000 & exit 42"])
        self.assertEqual(done.returncode, 42, self.shown)
        self.assertRegex(done.stdout, rf"\A6\.12\.\S+\n{ROOT}\n\Z")
        self.assertTrue(done.stderr.endswith("complaint\n"), self.shown)  # what comes before is of the lab
        self.assertEqual((self.share / "kept").read_text(), "kept\n")
        self.assertFalse((ROOT / "written").exists(), "a guest wrote to the host")

    def test_rdma_on_the_older_kernel(self):
        script = ("uname -r; timeout 60 rping -s -a $GODWIT_ADDRESS -C 5 & sleep 2;"
                  "exec timeout 60 rping -c -a $GODWIT_ADDRESS -I $GODWIT_PEER -C 5")
        done = self.vm("run", "--kernel", "6.1", "--rdma", command=["sh", "-c", script])
        self.assertEqual(done.returncode, 0, self.shown)
        self.assertRegex(done.stdout, r"\A6\.1\.")

    def test_a_panic_shows_its_last_words(self):
        done = self.vm("run", command=["sh", "-c", "echo c >/proc/sysrq-trigger"])
        self.assertEqual(done.returncode, 125, self.shown)
        self.assertIn("Kernel panic - not syncing: sysrq triggered crash", done.stderr)

    def test_an_emulated_processor_has_no_cmpxchg16b(self):
        done = self.vm("run", "--accel", "tcg", command=["grep", "--count", "--word-regexp", "cx16", "/proc/cpuinfo"])
        self.assertEqual((done.stdout, done.returncode), ("0\n", 1), self.shown)

    def test_time_is_up(self):
        done = self.vm("run", command=["true"], timeout=1)
        self.assertEqual(done.returncode, 124, self.shown)
        self.assertIn("1 s were not enough for guest a", done.stderr)

    def test_no_network_to_fetch_a_kernel(self):
        impatient = self.share / "apt.conf"
        impatient.write_text('Acquire::Retries "0";\n')
        with tempfile.TemporaryDirectory() as cache:
            done = subprocess.run(["unshare", "--net", VM, "run", "--", "true"], capture_output=True, text=True,
                                  env={**os.environ, "GODWIT_LAB_CACHE": cache, "APT_CONFIG": str(impatient)})
        self.assertEqual(done.returncode, 125, done.stderr)
        self.assertIn("fetching kernel 6.12: apt-get failed", done.stderr.splitlines()[-1])

    def test_killed_it_leaves_nothing(self):
        before = set(pathlib.Path(tempfile.gettempdir()).glob("godwit-vm-*"))
        process = subprocess.Popen([VM, "pair", "--", "sleep", "100"])
        guests = []
        while len(guests) < 2:
            self.assertIsNone(process.poll())
            time.sleep(0.1)
            listed = subprocess.run(["ps", "-o", "pid=,comm=", "--ppid", str(process.pid)], capture_output=True,
                                    text=True).stdout
            guests = [int(line.split()[0]) for line in listed.splitlines() if "qemu" in line]
        process.send_signal(signal.SIGKILL)
        process.wait()
        end = time.monotonic() + 10
        while time.monotonic() < end:
            left = [pid for pid in guests if is_alive(pid)]
            folders = set(pathlib.Path(tempfile.gettempdir()).glob("godwit-vm-*")) - before
            if not left and not folders:
                return
            time.sleep(0.1)
        self.fail(f"left behind: processes {left}, folders {folders}")


def is_alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class LastWords(unittest.TestCase):
    """What is shown of a console whose guest has died."""

    def shown(self, *lines):
        guest = Guest("a", None)
        guest.add_console("".join(f"{line}\r\n" for line in lines).encode())
        return [line.strip() for line in guest.last_words().splitlines() if line]

    def test_of_a_fault_everything_up_to_the_panic(self):
        fault = ["Oops: general protection fault, maybe for address 0x0: 0000 [#1] PREEMPT SMP NOPTI",
                 *(f"line {n}" for n in range(60)), "Kernel panic - not syncing: Fatal exception in interrupt"]
        self.assertEqual(self.shown("before", *fault, "Kernel Offset: disabled"), fault)

    def test_of_a_panic_without_a_fault_what_leads_to_it(self):
        lines = [*(f"line {n}" for n in range(20)), "Kernel panic - not syncing: sysrq triggered crash"]
        self.assertEqual(self.shown(*lines, "Call Trace:"), lines[-13:])

    def test_of_any_other_end_the_last_lines(self):
        self.assertEqual(self.shown(*(f"line {n}" for n in range(20))), [f"line {n}" for n in range(8, 20)])
        self.assertEqual(self.shown(), ["(none)"])


class Cable(GuestCase):
    SCRIPT = r"""
    reached() { busybox ping -c 1 -W 2 $GODWIT_PEER >/dev/null; }
    meet up
    if [ $GODWIT_GUEST = a ]; then
      reached || { echo "no way to the other guest"; exit 1; }
      for way in '' out in; do
        cable pull eth1 $way
        reached && { echo "packets cross a cable that is pulled ($way)"; exit 1; }
        [ "$(cat /sys/class/net/eth1/carrier)" = 1 ] || { echo "the carrier is lost"; exit 1; }
        cable plug eth1
        reached || { echo "the cable is plugged in ($way), but nothing comes"; exit 1; }
      done
    fi
    meet done
    echo well
    """

    def test_pulled_and_plugged_in(self):
        done = self.vm("pair", command=["bash", "-c", self.SCRIPT])
        self.assertEqual(done.returncode, 0, self.shown)
        self.assertEqual(sorted(done.stdout.splitlines()), ["a| well", "b| well"], self.shown)


if __name__ == "__main__":
    unittest.main()
