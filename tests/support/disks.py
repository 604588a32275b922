"""File systems that share blocks between files, in images of their own: mounted for a test, nothing of them stays.

Who may not mount, or has no mkfs.xfs and mkfs.btrfs (Debian's xfsprogs and btrfs-progs), skips these tests with a
reason.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from zeroconsolidate.outputs import sharing
from zeroconsolidate.run import clone, local_output

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

MAKERS = {
    "xfs": ["mkfs.xfs", "-q", "-m", "reflink=1"],
    "xfs with blocks of 1 KiB": ["mkfs.xfs", "-q", "-m", "reflink=1", "-b", "size=1024"],
    "btrfs": ["mkfs.btrfs", "-q", "-m", "single"],
}
_IMAGE_BYTES = 512 << 20
"""mkfs.xfs makes none below 300 MB. The image is sparse: what is not written takes no room."""


@dataclass(frozen=True)
class Disk:
    """A mounted image."""

    kind: str
    image: Path
    folder: Path
    """Where it is mounted."""

    def used_bytes(self) -> int:
        """What is taken of it."""
        subprocess.run(["sync", "-f", str(self.folder)], check=True)
        status = os.statvfs(self.folder)
        return (status.f_blocks - status.f_bfree) * status.f_frsize

    def forget(self, path: Path) -> None:
        """Have the file's pages read from the disk when they are next asked for."""
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)

    def mount(self) -> None:
        kind = self.kind.partition(" ")[0]
        done = subprocess.run(
            ["mount", "-t", kind, "-o", "loop", str(self.image), str(self.folder)], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"an image of {kind} cannot be mounted here: {done.stderr.strip()}")

    def unmount(self) -> None:
        # Whatever a failed test left open must not keep the image.
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)

    def lose_power(self) -> None:
        """Go on with what the disk has now: all that is only in memory is lost."""
        lost = self.image.with_name(f"{self.image.name}-with-power")
        copied = self.image.with_name(f"{self.image.name}-copy")
        subprocess.run(["cp", "--sparse=always", str(self.image), str(copied)], check=True)
        self.unmount()
        self.image.rename(lost)
        copied.rename(self.image)
        lost.unlink()
        self.mount()


def disk(kind: str, work: Path) -> Iterator[Disk]:
    """A new file system of this kind, for as long as the generator is held."""
    maker = MAKERS[kind]
    if not shutil.which(maker[0]):
        pytest.skip(f"{maker[0]} is not installed")
    if os.geteuid():
        pytest.skip("only root may mount an image")
    made = Disk(kind, work / "image", work / "mounted")
    made.folder.mkdir(parents=True)
    with made.image.open("wb") as file:
        file.truncate(_IMAGE_BYTES)
    subprocess.run([*maker, str(made.image)], check=True)
    made.mount()
    try:
        yield made
    finally:
        made.unmount()
        made.image.unlink()


def pretend(patch: pytest.MonkeyPatch, block_bytes: int) -> None:
    """Have every file system share blocks of this size, as far as anyone can tell: it copies them."""

    def probe(folder: str, files: Iterable[str]) -> clone.Shareable:
        return clone.Shareable(block_bytes=block_bytes, apart={})

    def share(source: int, source_start: int, size_bytes: int, target: int, target_start: int) -> None:
        reaches = source_start + size_bytes <= os.fstat(source).st_size
        if not reaches or any(number % block_bytes for number in (source_start, size_bytes, target_start)):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        os.pwrite(target, os.pread(source, size_bytes, source_start), target_start)

    patch.setattr(sharing, "probe", probe)
    patch.setattr(local_output, "clone", share)
