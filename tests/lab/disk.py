"""A small disk of its own for an agent's --root: it can be full, and it can lose power.

Mounted with commit=300: nothing reaches the disk by itself, only what somebody syncs (or what the kernel writes back
after half a minute). So a loss of power takes back exactly what a program did not care to make durable.
"""

import contextlib
import errno
import fcntl
import os
import pathlib
import shutil
import struct

from commands import run_command

MIB = 32
FILES = 1024
FILLING = "filling-of-the-disk"
# EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH (linux/ext4.h): from now on nothing is written any more, the
# journal in memory included. What xfstests calls godown.
SHUTDOWN = 0x8004587D
WITHOUT_FLUSH = 2


class Disk:
    """An ext4 image, mounted at `place`. Removing the directory of the lab removes it: tests/lab/caretaker unmounts."""

    def __init__(self, image, place):
        self.image, self.place = pathlib.Path(image), pathlib.Path(place)

    def make(self):
        with open(self.image, "wb") as file:
            file.truncate(MIB << 20)
        run_command(["mkfs.ext4", "-q", "-F", "-m", "0", "-N", FILES, self.image])
        self.place.mkdir(parents=True, exist_ok=True)
        self._mount()

    def _mount(self):
        run_command(["mount", "-t", "ext4", "-o", "loop,commit=300,noatime", self.image, self.place])

    def fill(self):
        """Neither a byte nor a file fits on it afterwards."""
        filling = self.place / FILLING
        filling.mkdir()
        with self._until_full():
            for number in range(FILES):
                (filling / str(number)).touch()
        with open(filling / "0", "r+b", buffering=0) as file:
            end = 0
            for step in (1 << 20, 1 << 16, 1 << 12, 1 << 10):
                with self._until_full():
                    while True:
                        os.posix_fallocate(file.fileno(), end, step)
                        end += step

    @staticmethod
    @contextlib.contextmanager
    def _until_full():
        try:
            yield
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise

    def empty(self):
        shutil.rmtree(self.place / FILLING, ignore_errors=True)

    def lose_power(self):
        """Nothing that is written from now on is durable. Then, when nobody uses it any more: restore()."""
        directory = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(directory, SHUTDOWN, struct.pack("I", WITHOUT_FLUSH))
        finally:
            os.close(directory)

    def restore(self):
        """Mounts what was durable; its journal is replayed. A copy: the old one may still be held by somebody's mount
        namespace, and would be the same, dead, file system."""
        for mount in reversed(mounts_below(self.place)):
            run_command(["umount", "--lazy", mount], check=False)
        copy = self.image.with_name(self.image.name + ".copy")
        run_command(["cp", "--sparse=always", self.image, copy])
        self.image.unlink()
        copy.rename(self.image)
        self._mount()


def mounts_below(place):
    """Including itself; parents first."""
    found = []
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        path = line.split()[4].encode().decode("unicode_escape")
        if path == str(place) or path.startswith(f"{place}/"):
            found.append(path)
    return found
