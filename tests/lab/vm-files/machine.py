"""One guest of tests/lab/vm: a QEMU process, what it says, and how it ended."""

import collections
import ctypes
import os
import re
import shlex
import signal
import socket
import subprocess

from kernel import FILES, LabError, NotBooted

QEMU = "qemu-system-x86_64"
# QEMU 7.2 computes the flags that CMPXCHG16B leaves from operands of an earlier instruction: a kernel whose allocator
# uses it can get bits of a pointer into EFLAGS, and panic. Linux does without where the processor lacks it.
ACCELERATION = {"kvm": ("-accel", "kvm", "-cpu", "host"),
                "tcg": ("-accel", "tcg,thread=multi", "-cpu", "max,la57=off,cx16=off")}
# The first ones save time while booting; the next two leave out checks that fail where an emulated machine is starved
# of processor time. A panic ends in a reboot, which ends QEMU.
KERNEL_ARGUMENTS = ("console=ttyS0 quiet mitigations=off nokaslr random.trust_cpu=on net.ifnames=0 "
                    "no_timer_check cryptomgr.notests panic=-1")
STREAMS = ("stdout", "stderr", "console")
LAST_LINES = 12
KEPT_LINES = 200
FAULT = re.compile(r"cut here|BUG:|Oops|general protection fault|double fault|stack segment|invalid opcode")


class Guest:
    """Reads are the caller's: `streams` maps each open socket to its name; a stream ends when QEMU does."""

    def __init__(self, name, folder):
        self.name, self.folder = name, folder
        self.streams = {}
        self.console = collections.deque(maxlen=KEPT_LINES)
        self._console_part = b""
        self.process = None

    def write_job(self, kind, checkout, kernel, environment, command):
        """What vm-files/guest reads."""
        directory = os.getcwd()
        values = {"kind": kind, "checkout": checkout, "modules": kernel.modules, "directory": directory,
                  **environment}
        lists = {"needed": (checkout, kernel.folder, directory), "command": command,
                 "environment": [f"{name}={value}" for name, value in environment.items()]}
        lines = [f"{name}={shlex.quote(str(value))}" for name, value in values.items()]
        lines += [f"{name}=({' '.join(shlex.quote(str(word)) for word in words)})" for name, words in lists.items()]
        (self.folder / f"job.{self.name}").write_text("\n".join(lines) + "\n")
        (self.folder / "guest").write_bytes((FILES / "guest").read_bytes())
        (self.folder / "guest").chmod(0o755)

    def start(self, kernel, share, acceleration, cpus, memory, cables=()):
        arguments = [QEMU, "-machine", "q35", *ACCELERATION[acceleration], "-smp", str(cpus), "-m", str(memory),
                     "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                     "-kernel", kernel.vmlinux, "-initrd", kernel.initramfs(),
                     "-append", f"{KERNEL_ARGUMENTS} GODWIT_GUEST={self.name}"]
        for tag, path, options in (("host", "/", ",readonly=on,multidevs=remap"), ("lab", self.folder, ""),
                                   ("share", share, "")):
            arguments += ["-fsdev", f"local,id={tag},path={escaped(path)},security_model=none{options}",
                          "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
        for number, cable in enumerate(cables):
            here, there = (escaped(f"{cable}.{guest}") for guest in ("ab" if self.name == "a" else "ba"))
            address = f"52:54:00:78:0{number}:0{'ab'.index(self.name) + 1}"
            arguments += ["-netdev", f"dgram,id=eth{number},local.type=unix,local.path={here},"
                                     f"remote.type=unix,remote.path={there}",
                          "-device", f"virtio-net-pci,netdev=eth{number},mac={address}"]
        arguments += ["-device", "virtio-serial-pci"]
        theirs = []
        for name in STREAMS:
            ours, end = socket.socketpair()
            self.streams[ours] = name
            theirs.append(end)
            arguments += ["-chardev", f"socket,id={name},fd={end.fileno()}"]
            arguments += ["-serial", f"chardev:{name}"] if name == "console" else [
                "-device", f"virtserialport,chardev={name},name={name}"]
        try:
            self.process = subprocess.Popen(
                [str(a) for a in arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE, pass_fds=[end.fileno() for end in theirs], preexec_fn=die_with_parent)
        except FileNotFoundError:
            raise LabError(f"{QEMU} is not installed (tools/setup installs qemu-system-x86)") from None
        for end in theirs:
            end.close()

    def add_console(self, data):
        *lines, self._console_part = (self._console_part + data).split(b"\n")
        self.console.extend(line.decode(errors="replace").rstrip() for line in lines if line.strip())

    def began(self):
        """Whether it got as far as to run the command."""
        return (self.folder / f"began.{self.name}").exists()

    def last_words(self):
        """The last lines of the console; of a kernel that gave up, all it said from the fault to the panic."""
        lines = list(self.console)
        panic = next((n for n, line in enumerate(lines) if "Kernel panic" in line), len(lines))
        fault = next((n for n, line in enumerate(lines[:panic]) if FAULT.search(line)), panic)
        first = max(min(fault, panic - LAST_LINES), 0)
        return "".join(f"\n  {line}" for line in lines[first:panic + 1]) or " (none)"

    def status(self):
        """The job's exit status; raises LabError if there is none. QEMU has ended."""
        complaint = self.process.stderr.read().decode(errors="replace").strip()
        self.process.wait()
        try:
            return int((self.folder / f"status.{self.name}").read_text())
        except (OSError, ValueError):
            self.add_console(b"\n")
            how = complaint.splitlines()[-1] if complaint else (
                f"ended without a word; the last lines of its console:{self.last_words()}")
            refused = self.process.returncode == 1  # by QEMU, before it began: options, or no KVM
            kind = LabError if refused or self.began() else NotBooted
            raise kind(f"guest {self.name}: {how}") from None

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def die_with_parent():
    """In the child before it becomes QEMU: prctl(PR_SET_PDEATHSIG, SIGKILL)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def escaped(path):
    """QEMU's options are separated by commas."""
    return str(path).replace(",", ",,")
