"""Writing to an open output file: exact writes, and copies that the kernel does where it can."""

from __future__ import annotations

import errno
import mmap
import os
from typing import TYPE_CHECKING

from ..errors import OutputFailed
from .inputs import ended_early

if TYPE_CHECKING:
    from collections.abc import Callable

    from .inputs import Inputs

# What copy_file_range answers where it cannot do this pair of files (other file system, no support, special file).
_CANNOT = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF, errno.ETXTBSY}
)
_WRITEBACK_BYTES = 32 << 20
_PIECE_BYTES = 64 << 20
"""The kernel copies so much at a time: between two pieces signals are heard, progress shown and syncs made."""


class OutputFile:
    """A file that is written from `start` on, in ascending order.

    `reached(n)` is called again and again: every byte of the file below n is written.
    """

    def __init__(self, path: str, fd: int, *, start: int, reached: Callable[[int], None]) -> None:
        self.path = path
        self._fd = fd
        self._in_kernel = hasattr(os, "copy_file_range")
        self._written_back = start
        self._tell = reached

    def write(self, data: bytes | memoryview, start: int) -> None:
        """All of `data` at byte `start`. Raises OutputFailed."""
        view = memoryview(data)
        while view:
            try:
                done = os.pwrite(self._fd, view, start)
            except OSError as error:
                raise OutputFailed.from_system(self.path, error) from None
            view, start = view[done:], start + done

    def copy(self, inputs: Inputs, path: str, file_start: int, size_bytes: int, start: int, block: memoryview) -> None:
        """`size_bytes` bytes of the input file `path` from `file_start`, to byte `start` of this file.

        The kernel copies where both files allow it and their pages line up; else the bytes pass through `block`.
        Without that, a file system that cannot share extents splices each page in two halves, which was measured to
        take half as long again as reading and writing blocks that fit the processor's cache.
        """
        done = 0
        lined_up = (file_start - start) % mmap.PAGESIZE == 0
        while done < size_bytes and self._in_kernel and lined_up:
            try:
                piece = min(size_bytes - done, _PIECE_BYTES)
                got = os.copy_file_range(inputs.fd(path), self._fd, piece, file_start + done, start + done)
            except OSError as error:
                if error.errno not in _CANNOT:
                    raise OutputFailed.from_system(self.path, error) from None
                self._in_kernel = False
                break
            if not got:
                # Either the input has ended or this file system answers 0 for "cannot": reading tells which.
                if os.fstat(inputs.fd(path)).st_size < file_start + size_bytes:
                    raise ended_early(path, file_start + size_bytes, file_start + done)
                break
            done += got
            self.reached(start + done)
        while done < size_bytes:
            part = block[: min(len(block), size_bytes - done)]
            inputs.read_into(path, file_start + done, part)
            self.write(part, start + done)
            done += len(part)
            self.reached(start + done)

    def reached(self, upto: int) -> None:
        """Every byte below `upto` is written: pass it on, and have the kernel begin to write back.

        The final fsync then has little left to wait for. The advice is given once for each range, while its
        pages are dirty, which the kernel cannot drop: the file stays in the page cache.
        """
        if upto - self._written_back >= _WRITEBACK_BYTES and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._fd, self._written_back, upto - self._written_back, os.POSIX_FADV_DONTNEED)
            self._written_back = upto
        self._tell(upto)
