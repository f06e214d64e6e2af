"""Where the mail lies: ext4 or XFS on a loop device over RAM, or a plain directory.

Owns mounting and unmounting. Promises that nothing stays mounted: it all happens in a mount namespace of its own (see
`machine.enter_namespace`), and is unmounted before.
"""

import contextlib
import shutil
import tempfile
import time
from pathlib import Path

from . import machine
from .machine import Device, Failure, run

# No background initialisation while it is being measured; enough inodes for small files; the image keeps its memory.
MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-i", "8192", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"],
    "xfs": ["mkfs.xfs", "-q", "-f", "-K"],
}


class FileSystem:
    """A directory to keep mail in, and what is known of the device under it."""

    def __init__(self, path: Path, kind: str, device: Device | None):
        self.path, self.kind, self.device = path, kind, device
        mounted = run("findmnt", "-n", "-o", "FSTYPE,OPTIONS", "-T", path).split()
        self.description = f"{mounted[0]} ({mounted[1]})" + (" on a loop device over RAM" if device else f", plain directory on {source(path)}")

    def settle(self):
        """Nothing is left to be written that was made before."""
        run("sync", "-f", self.path)


@contextlib.contextmanager
def in_memory(directory: Path, kind: str, size: int):
    """A fresh file system on a loop device over a file in RAM, which has all of its memory before anything is measured."""
    if (free := machine.available_bytes()) < size:
        raise Failure(f"a file system of {size >> 20} MiB in RAM needs as much free memory, and there are {free >> 20} MiB; give a smaller --size")
    memory, mail = directory / "ram", directory / "fs"
    for path in (memory, mail):
        path.mkdir(exist_ok=True)
    run("mount", "-t", "tmpfs", "-o", f"size={size}", "posthaste-compare", memory)
    try:
        image = memory / "image"
        # Memory that nobody has touched is slow the first time, in a virtual machine most of all: whoever comes first would
        # pay for all who come after him.
        run("dd", "if=/dev/zero", f"of={image}", "bs=1M", "iflag=count_bytes", f"count={size}")
        run(*MAKE[kind], image)
        run("mount", "-o", "loop", image, mail)
        try:
            yield FileSystem(mail, kind, Device(Path(source(mail)).name))
        finally:
            unmount(mail)
    finally:
        unmount(memory)


@contextlib.contextmanager
def plain(parent: Path):
    """A fresh directory below `parent`, on whatever is there."""
    path = Path(tempfile.mkdtemp(prefix="posthaste-compare-", dir=parent))
    path.chmod(0o755)
    try:
        yield FileSystem(path, "plain", None)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def source(path: Path) -> str:
    return run("findmnt", "-n", "-o", "SOURCE", "-T", path).strip()


def unmount(path: Path):
    """A process that has just ended may hold it for a moment longer."""
    for attempt in range(50):
        try:
            return run("umount", path)
        except Failure:
            if attempt == 49:
                raise
            time.sleep(0.1)


@contextlib.contextmanager
def scratch():
    """The directory for configurations and sockets: short, as paths of sockets end after 107 bytes (unix(7))."""
    with tempfile.TemporaryDirectory(prefix="phc-") as directory:
        path = Path(directory)
        # Rivals run as users of their own.
        path.chmod(0o755)
        yield path
