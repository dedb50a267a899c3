"""Debian's kernels for the guests of tests/lab/vm: fetched with apt, unpacked once into a cache folder.

    CACHE/6.12/             made in one step, so never half of it
      vmlinux               the uncompressed kernel: QEMU enters it directly (PVH), seconds sooner than a bzImage
      config                what it was built with
      lib/modules/RELEASE   all its modules, as in the package, with modprobe's index
      initramfs-HASH        busybox and what it takes to reach the root; made anew when its contents change
"""

import contextlib
import fcntl
import hashlib
import os
import pathlib
import re
import shutil
import struct
import subprocess
import tempfile

FILES = pathlib.Path(__file__).resolve().parent
# Both are in bookworm-security. 6.12 has WP_ASYNC and PAGEMAP_SCAN, 6.1 is the older world.
PACKAGES = {"6.12": r"linux-image-6\.12\.\d+\+deb12-amd64", "6.1": r"linux-image-6\.1\.0-\d+-amd64"}
# What stands between the kernel and its root; all else is loaded from there.
BOOT_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
BOOT_APPLETS = ("sh", "insmod", "ln", "mkdir", "mount", "switch_root")


class LabError(Exception):
    """The lab itself failed, not what runs in it; one line."""


class NotBooted(LabError):
    """A guest ended before its command began."""


def cache_folder():
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(os.environ.get("GODWIT_LAB_CACHE") or pathlib.Path(home) / "godwit-lab")


def command(arguments, what, **options):
    """Runs a program of the host and returns what it printed."""
    try:
        done = subprocess.run([str(a) for a in arguments], capture_output=True, check=False, **options)
    except FileNotFoundError:
        raise LabError(f"{what}: {arguments[0]} is not installed (tools/setup installs it)") from None
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no output"]
        cause = next((line for line in lines if "ailed to fetch" in line), lines[-1])  # apt's last line is no help
        raise LabError(f"{what}: {arguments[0]} failed with status {done.returncode}: {cause}")
    return done.stdout


class Kernel:
    """A kernel in the cache."""

    def __init__(self, series, folder):
        self.series, self.folder = series, folder
        self.vmlinux = folder / "vmlinux"
        self.release = os.listdir(folder / "lib/modules")[0]
        self.modules = folder / "lib/modules" / self.release

    def initramfs(self):
        needed = self._boot_modules()
        contents = hashlib.sha256("\n".join(needed).encode() + (FILES / "init").read_bytes()).hexdigest()[:12]
        image = self.folder / f"initramfs-{contents}"
        if not image.exists():
            with temporary_folder(self.folder) as tree:
                fill_initramfs(tree, needed)
                # The archive must not hold itself, and appears under its name when it is whole.
                with temporary_folder(self.folder) as made:
                    command(["sh", "-c", 'find . | busybox cpio -o -H newc >"$0"', made / "image"],
                            "making the initramfs", cwd=tree)
                    (made / "image").rename(image)
        return image

    def _boot_modules(self):
        """Their files, each after those it depends on. What is built in has none."""
        shown = command(["modprobe", "--dirname", self.folder, "--set-version", self.release, "--show-depends",
                         "--all", *BOOT_MODULES], "listing the modules of the initramfs").decode()
        return list(dict.fromkeys(line.split()[1] for line in shown.splitlines() if line.startswith("insmod ")))


def fill_initramfs(tree, modules):
    for name in ("bin", "modules", "ro", "rw", "root"):
        (tree / name).mkdir()
    busybox = shutil.which("busybox")
    if not busybox:
        raise LabError("making the initramfs: busybox is not installed (tools/setup installs busybox-static)")
    shutil.copy(busybox, tree / "bin/busybox")
    for applet in BOOT_APPLETS:
        (tree / "bin" / applet).symlink_to("busybox")
    shutil.copy(FILES / "init", tree / "init")
    for number, path in enumerate(modules):
        name = os.path.basename(path).removesuffix(".xz")
        image = command(["xz", "-dc", path], "unpacking a module") if path.endswith(".xz") else open(path, "rb").read()
        (tree / "modules" / f"{number:02}-{name}").write_bytes(image)  # the guest loads them in this order


@contextlib.contextmanager
def temporary_folder(parent):
    folder = pathlib.Path(tempfile.mkdtemp(prefix=".new-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def get(series, say):
    """The kernel of this series: from the cache, or else from Debian."""
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    # One at a time; and what a killed one left is nobody's.
    with open(cache / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for folder in (cache, cache / series):
            for left in folder.glob(".new-*"):
                shutil.rmtree(left, ignore_errors=True)
        if not (cache / series).exists():
            with temporary_folder(cache) as folder:
                unpack(download(series, folder, say), folder / "ready")
                (folder / "ready").rename(cache / series)
        kernel = Kernel(series, cache / series)
        kernel.initramfs()
        return kernel


def newest_package(series):
    names = command(["apt-cache", "pkgnames", "linux-image-" + series], "looking for a kernel").decode().split()
    fitting = [name for name in names if re.fullmatch(PACKAGES[series], name)]
    return max(fitting, key=lambda name: [int(n) for n in re.findall(r"\d+", name)], default=None)


def download(series, folder, say):
    what = f"fetching kernel {series}"
    for attempt in range(2):
        package = newest_package(series)
        if package:
            say(f"fetching {package} (once; about 100 MB)")
            try:
                command(["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", package], what, cwd=folder)
                return next(folder.glob("*.deb"))
            except LabError:
                if attempt:
                    raise
        # The lists are missing, or older than the archive.
        command(["apt-get", "-q", "-o", "APT::Update::Error-Mode=any", "update"], what)
    raise LabError(f"{what}: apt knows no package {PACKAGES[series]} (is bookworm-security among its sources?)")


def unpack(package, ready):
    tree = package.parent / "tree"
    command(["dpkg-deb", "--extract", package, tree], "unpacking a kernel")
    package.unlink()
    release = os.listdir(tree / "lib/modules")[0]
    command(["depmod", "--basedir", tree, release], "indexing the modules")
    ready.mkdir()
    (tree / "lib").rename(ready / "lib")
    (tree / f"boot/config-{release}").rename(ready / "config")
    (ready / "vmlinux").write_bytes(uncompressed((tree / f"boot/vmlinuz-{release}").read_bytes()))


def uncompressed(image):
    """The ELF kernel in a bzImage; offsets as in the kernel's Documentation/arch/x86/boot.rst."""
    setup_sectors = image[0x1f1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    payload = image[start:start + length - 4]  # the last four bytes are the size of what is in it
    tools = {b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zX": "xz"}
    if payload[:4] not in tools:
        raise LabError(f"unpacking a kernel: its compression is unknown (magic {payload[:4].hex()})")
    kernel = command([tools[payload[:4]], "-dc"], "unpacking a kernel", input=payload)
    if kernel[:4] != b"\x7fELF":
        raise LabError("unpacking a kernel: what is in it is no ELF file")
    return kernel
