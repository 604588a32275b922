"""A file of this machine while it is written: blocks are shared, copied by the kernel, or written."""

from __future__ import annotations

import errno
import mmap
import os
import threading
from typing import TYPE_CHECKING

from ..errors import OutputFailed, reason
from ..options.urls import is_url
from .clone import ANY_MEANS, CANNOT, clone
from .descriptors import fill
from .local import LocalFiles
from .page_cache import Trail
from .storage import Writable, ended_early

if TYPE_CHECKING:
    from .clone import Means
    from .local import Opened
    from .storage import Readable

# What copy_file_range answers where it cannot do this pair of files (other file system, no support, special file).
_CANNOT = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF, errno.ETXTBSY}
)
_WRITEBACK_BYTES = 32 << 20
_PIECE_BYTES = 64 << 20
"""The kernel copies so much at a time: between two pieces signals are handled, progress is reported and data synced."""
_CLONED_BYTES = 1 << 30
"""It shares so much at a time: no data moves, so that is sooner done."""


class LocalOutput(Writable):
    """An open file that is written from `start` on, in ascending order. `path` is what errors call it."""

    def __init__(self, path: str, fd: int, *, start: int, means: Means = ANY_MEANS) -> None:
        self.path = path
        self.cloned_bytes = 0
        """How many bytes share the blocks of input files."""
        self._fd = fd
        self._means = means
        self._in_kernel = means.in_kernel and hasattr(os, "copy_file_range")
        self._apart: set[str] = set()
        self._turn = threading.Lock()
        self._written_back = start
        self._written_bytes = 0
        self._trail = Trail(start) if means.drop_cache else None

    def write(self, data: bytes | memoryview, start: int) -> None:
        """All of `data` at byte `start`."""
        view = memoryview(data)
        while view:
            try:
                done = os.pwrite(self._fd, view, start)
            except OSError as error:
                raise OutputFailed.from_system(self.path, error) from None
            view, start = view[done:], start + done
        self._begin_to_write_back(len(data), start)

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill `buffer` with what has been written."""
        try:
            if fill(self._fd, start, buffer) < len(buffer):
                raise OSError(0, "it has become shorter while it was being written")
        except OSError as error:
            raise OutputFailed.from_system(self.path, error) from None

    def copy_from(self, source: Readable, file: str, file_start: int, size_bytes: int, start: int) -> int:
        """Whole blocks are shared where the file system can; else the kernel copies where both files allow it and
        their pages line up.

        Without that, a file system that cannot share extents splices each page in two halves, which was measured to
        take half as long again as reading and writing blocks that fit the processor's cache.
        """
        if not isinstance(source, LocalFiles) or is_url(file):
            return 0
        got = self._share(source, file, file_start, size_bytes, start)
        if got:
            return got
        if not self._in_kernel or (file_start - start) % mmap.PAGESIZE:
            return 0
        opened = source.opened(file)
        try:
            got = os.copy_file_range(opened.fd, self._fd, min(size_bytes, _PIECE_BYTES), file_start, start)
        except OSError as error:
            if error.errno not in _CANNOT:
                raise OutputFailed.from_system(self.path, error) from None
            self._in_kernel = False
            return 0
        source.refuse_changed(file, opened)
        # Either the input has ended or this file system answers 0 for "cannot".
        if not got and os.fstat(opened.fd).st_size < file_start + size_bytes:
            raise ended_early(file, file_start + size_bytes, file_start)
        source.has_read(file, opened, file_start, file_start + got)
        self._begin_to_write_back(got, start + got)
        return got

    def _share(self, source: LocalFiles, file: str, file_start: int, size_bytes: int, start: int) -> int:
        """Share the whole blocks of an extent with the input file; what lies before the first of them is copied.

        Returns how many bytes are done: 0 if there is no whole block, or none can be shared.
        """
        block_bytes = self._means.block_bytes
        if not block_bytes or file in self._apart or (file_start - start) % block_bytes:
            return 0
        head_bytes = -start % block_bytes
        whole_bytes = min((size_bytes - head_bytes) // block_bytes * block_bytes, _CLONED_BYTES)
        if whole_bytes <= 0:
            return 0
        if head_bytes:
            head = memoryview(bytearray(head_bytes))
            source.read_into(file, file_start, head)
            self.write(head, start)
            return head_bytes
        opened = source.opened(file)
        try:
            clone(opened.fd, file_start, whole_bytes, self._fd, start)
        except OSError as error:
            if error.errno not in CANNOT:
                raise OutputFailed.from_system(self.path, error) from None
            self._refuse_or_remember(opened, file, file_start + whole_bytes, error)
            return 0
        source.refuse_changed(file, opened)
        with self._turn:
            self.cloned_bytes += whole_bytes
        return whole_bytes

    def _refuse_or_remember(self, opened: Opened, file: str, stop: int, error: OSError) -> None:
        """Blocks up to byte `stop` of an input file could not be shared: an error, or a reason not to try again."""
        size_bytes = os.fstat(opened.fd).st_size
        if size_bytes < stop:  # which is answered with EINVAL, too
            raise ended_early(file, stop, size_bytes)
        if self._means.must_share:
            raise OutputFailed(
                f"--reflink always: the file system does not share blocks of this file: {reason(error)}",
                remedy="start over with --restart and without --reflink always: then they are copied",
                errno=error.errno,
                address=(file,),
            )
        self._apart.add(file)

    def finish(self) -> None:
        """Have the kernel begin to write back all that is left: who syncs the file later waits less."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._fd, self._written_back, 0, os.POSIX_FADV_DONTNEED)

    def synced(self, upto: int) -> None:
        """All bytes below `upto` are on the disk: the page cache gives them up, if that was asked for. The page
        in which the next bytes go on stays."""
        if self._trail is not None:
            self._trail.touched(self._fd, self._trail.stop, upto)
            self._trail.pause(self._fd)

    def _begin_to_write_back(self, size_bytes: int, upto: int) -> None:
        """`size_bytes` more have been written below `upto`: now and then, have the kernel begin to write back. The last
        fsync has little left to wait for.

        The advice is given once for each range, while its pages are dirty, which the kernel cannot drop: the file
        stays in the page cache. What is cloned has no dirty pages.
        """
        self._written_bytes += size_bytes
        if self._written_bytes >= _WRITEBACK_BYTES and upto > self._written_back and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._fd, self._written_back, upto - self._written_back, os.POSIX_FADV_DONTNEED)
            self._written_back, self._written_bytes = upto, 0
