"""Blocks of one file as blocks of another: the system call, and the question whether a file system has it.

FICLONERANGE shares blocks or fails. `copy_file_range` also shares where it can, but copies where it cannot and does not
say which, so it is no answer for those who insist.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..archive.regular import open_regular
from ..errors import ZeroConsolidateError, reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_FICLONERANGE = getattr(fcntl, "FICLONERANGE", 0x4020940D)
"""Python names it from 3.12 on."""
_ARGUMENT = struct.Struct("=q3Q")
"""Source descriptor, source start, size and target start (`struct file_clone_range`)."""

CANNOT = frozenset(
    {
        errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EBADF,
        errno.ETXTBSY, errno.EAGAIN, errno.EOVERFLOW, errno.EMLINK,
    }
)  # fmt: skip
"""What it answers where it cannot share these blocks, for whatever reason. They can still be copied."""

_SMALLEST_BYTES = 4096
"""The block of nearly all file systems. Some name a larger one, which is only their favourite size of a read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """How bytes may get from an input file into an output, apart from being read and written."""

    in_kernel: bool = True
    """The kernel may copy, or even share, as it likes."""
    block_bytes: int = 0
    """Blocks of this size may be shared; 0: none."""
    must_share: bool = False
    """It is an error if they cannot."""
    drop_cache: bool = False
    """The page cache does not keep what has been read and written."""


ANY_MEANS = Means()
"""As the kernel likes; nothing is asked of the file system."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shareable:
    """What a probe found."""

    block_bytes: int
    """Blocks of this size can be shared; 0 if none can."""
    apart: Mapping[str, str]
    """Files whose blocks cannot be shared, and why."""


def clone(source: int, source_start: int, size_bytes: int, target: int, target_start: int) -> None:
    """Make a range of the target, by descriptor, share the blocks of a range of the source. Raises OSError."""
    argument = _ARGUMENT.pack(source, source_start, size_bytes, target_start)
    while True:
        try:
            fcntl.ioctl(target, _FICLONERANGE, argument)
        except InterruptedError:
            continue
        return


def probe(folder: str, files: Iterable[str]) -> Shareable:
    """Whether a file in `folder` can share blocks with `files`: a block of one file on each device is tried.

    It is shared with a file that has no name and is gone when this returns. Nothing is written to the files.
    """
    if sys.platform != "linux" or not hasattr(os, "O_TMPFILE"):
        return Shareable(block_bytes=0, apart=dict.fromkeys(files, "this system has no call for it"))
    by_device: dict[int, list[str]] = {}
    apart: dict[str, str] = {}
    for file in files:
        try:
            by_device.setdefault(os.stat(file).st_dev, []).append(file)
        except OSError as error:
            apart[file] = reason(error)
    sizes = {_SMALLEST_BYTES, os.statvfs(folder).f_bsize}
    found: list[int] = []
    for together in by_device.values():
        why = ""
        for block_bytes in sorted(sizes):
            why = _tried(folder, max(together, key=os.path.getsize), block_bytes)
            if not why:
                found.append(block_bytes)
                break
        if why:
            apart |= dict.fromkeys(together, why)
    return Shareable(block_bytes=max(found, default=0), apart=apart)


def _tried(folder: str, file: str, block_bytes: int) -> str:
    """Why the second block of `file` cannot be shared with a file in `folder`; empty if it can."""
    source = target = -1
    try:
        source = open_regular(file)
        if os.fstat(source).st_size < 2 * block_bytes:
            return "the files are smaller than two blocks"
        target = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        clone(source, block_bytes, block_bytes, target, block_bytes)
    except (OSError, ZeroConsolidateError) as error:
        return reason(error) if isinstance(error, OSError) else str(error)
    finally:
        for fd in (source, target):
            if fd >= 0:
                os.close(fd)
    return ""
