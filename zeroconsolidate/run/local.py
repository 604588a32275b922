"""Local files as storage: exact reads and writes, and copies by the kernel where it can."""

from __future__ import annotations

import errno
import mmap
import os
import threading
import weakref
from collections import OrderedDict
from types import MappingProxyType
from typing import TYPE_CHECKING

from ..archive.places import look_of
from ..archive.regular import open_regular
from ..errors import DamagedFile, OutputFailed, reason
from ..options.mapped import EVERYTHING_HERE
from ..options.urls import is_url
from .clone import ANY_MEANS, CANNOT, clone
from .page_cache import Trail, drop_file
from .storage import Readable, Writable, ended_early

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from typing_extensions import Self

    from ..options.mapped import Mapped
    from .clone import Means

MAX_OPEN = 256
"""Open input files at a time: a thousand ranks must fit under the usual limit of 1,024 descriptors."""

# What copy_file_range answers where it cannot do this pair of files (other file system, no support, special file).
_CANNOT = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF, errno.ETXTBSY}
)
_WRITEBACK_BYTES = 32 << 20
_PIECE_BYTES = 64 << 20
"""The kernel copies so much at a time: between two pieces signals are handled, progress is reported and data synced."""
_CLONED_BYTES = 1 << 30
"""It shares so much at a time: no data moves, so that is sooner done."""
NOTHING_KNOWN: Mapping[str, Mapping[str, int | str]] = MappingProxyType({})
"""Of no file is it known what it looked like before."""


class LocalFiles(Readable):
    """Files by path, the least recently used closed first. Use it as a context manager.

    `places`: where this machine sees what is called otherwise elsewhere. `drop_cache`: the page cache does not keep
    what is read. `known`: what files looked like when it was decided where in them values are; to read one that has
    changed is an error, as its values may be of another save.
    """

    def __init__(
        self,
        places: Mapped = EVERYTHING_HERE,
        *,
        drop_cache: bool = False,
        known: Mapping[str, Mapping[str, int | str]] = NOTHING_KNOWN,
    ) -> None:
        self._places = places
        self._known = known
        self._trails: dict[str, Trail] | None = {} if drop_cache else None
        self._open: OrderedDict[str, _Opened] = OrderedDict()
        self._turn = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close all files. Call this when nothing reads them any more."""
        while self._open:
            self._open.popitem()[1].close()
        while self._trails:
            path, trail = self._trails.popitem()
            drop_file(self._places.seen(path), trail)

    def size_bytes(self, file: str) -> int:
        """The length of the file as it is now."""
        return os.fstat(self.opened(file).fd).st_size

    def read_into(self, file: str, start: int, buffer: memoryview) -> None:
        """Fill `buffer` from byte `start` of the file."""
        opened = self.opened(file)
        try:
            got = _read(opened.fd, start, buffer)
        except OSError as error:
            raise DamagedFile(f"the file cannot be read: {reason(error)}", address=(file,)) from None
        self.refuse_changed(file, opened)
        if got < len(buffer):
            raise ended_early(file, start + len(buffer), start + got)
        self.has_read(file, opened, start, start + got)

    def read_runs(
        self, file: str, start: int, *, run_bytes: int, step_bytes: int, count: int, buffer: memoryview
    ) -> None:
        """Fill `buffer` with `count` runs, out of a mapping: the kernel reads no more than the pages they lie in."""
        opened = self.opened(file)
        _read_runs(opened.fd, file, start, run_bytes, step_bytes, count, buffer)
        self.refuse_changed(file, opened)
        self.has_read(file, opened, start, start + (count - 1) * step_bytes + run_bytes)

    def has_read(self, file: str, opened: _Opened, start: int, stop: int) -> None:
        """Bytes `[start, stop)` of the file have been read, and nothing is mapped any more."""
        if self._trails is not None:
            with self._turn:
                self._trails.setdefault(file, Trail(start)).touched(opened.fd, start, stop)

    def refuse_changed(self, file: str, opened: _Opened) -> None:
        """Raise DamagedFile if an open file is no longer what it was known to be. Asked after each read: a file that is
        written in place is the same file, and stays open."""
        known = self._known.get(file)
        if known is not None and look_of(os.fstat(opened.fd)) != known:
            raise DamagedFile(
                "the file was changed while it was being read",
                consequence="its values may be of another save than its metadata",
                remedy="wait until nothing writes to it, and begin again; convert with --restart",
                address=(file,),
            )

    def opened(self, path: str) -> _Opened:
        """The open file. It stays open for as long as it is held, even if MAX_OPEN others are asked for meanwhile."""
        with self._turn:
            known = self._open.get(path)
            if known is not None:
                self._open.move_to_end(path)
                return known
            while len(self._open) >= MAX_OPEN:
                known_as, left = self._open.popitem(last=False)
                if self._trails and known_as in self._trails:
                    # Who still holds it can go on reading; or it is opened again, and read from where it was left.
                    self._trails[known_as].pause(left.fd)
            try:
                opened = _Opened(self._places.seen(path))
            except OSError as error:
                raise DamagedFile(f"the file cannot be read any more: {reason(error)}", address=(path,)) from None
            self._open[path] = opened
            return opened


class _Opened:
    """A descriptor that is closed when nobody holds this object any more: a number that is closed under a reader may
    be another file's a moment later."""

    __slots__ = ("__weakref__", "close", "fd")

    def __init__(self, path: str) -> None:
        self.fd = open_regular(path)
        self.close = weakref.finalize(self, os.close, self.fd)


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
        self._begin_to_write_back(start)

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill `buffer` with what has been written."""
        try:
            if _read(self._fd, start, buffer) < len(buffer):
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
        self._begin_to_write_back(start + got)
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

    def _refuse_or_remember(self, opened: _Opened, file: str, stop: int, error: OSError) -> None:
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

    def _begin_to_write_back(self, upto: int) -> None:
        """Have the kernel begin to write back what lies below `upto`: the final fsync has little left to wait for.

        The advice is given once for each range, while its pages are dirty, which the kernel cannot drop: the file
        stays in the page cache.
        """
        if upto - self._written_back >= _WRITEBACK_BYTES and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._fd, self._written_back, upto - self._written_back, os.POSIX_FADV_DONTNEED)
            self._written_back = upto


def _read_runs(fd: int, file: str, start: int, run_bytes: int, step_bytes: int, count: int, buffer: memoryview) -> None:
    """What :meth:`LocalFiles.read_runs` does, of an open file. When it returns nothing is mapped any more."""
    import numpy as np  # who asks for runs has imported it

    span_bytes = (count - 1) * step_bytes + run_bytes
    size_bytes = os.fstat(fd).st_size
    if start + span_bytes > size_bytes:
        raise ended_early(file, start + span_bytes, size_bytes)
    skipped = start % mmap.ALLOCATIONGRANULARITY
    mapped = mmap.mmap(fd, span_bytes + skipped, access=mmap.ACCESS_READ, offset=start - skipped)
    unit = next(n for n in (8, 4, 2, 1) if run_bytes % n == step_bytes % n == 0)
    span = np.frombuffer(mapped, f"u{unit}", count=span_bytes // unit, offset=skipped)
    runs = np.lib.stride_tricks.as_strided(span, (count, run_bytes // unit), (step_bytes, unit))
    np.frombuffer(buffer, span.dtype).reshape(runs.shape)[...] = runs


def _read(fd: int, start: int, buffer: memoryview) -> int:
    """Fill `buffer` from byte `start`; returns how many bytes there were. Raises OSError."""
    done = 0
    while done < len(buffer):
        got = _read_some(fd, start + done, buffer[done:])
        if not got:
            break
        done += got
    return done


if hasattr(os, "preadv"):

    def _read_some(fd: int, start: int, buffer: memoryview) -> int:
        return os.preadv(fd, [buffer], start)

else:  # macOS before 11

    def _read_some(fd: int, start: int, buffer: memoryview) -> int:
        data = os.pread(fd, len(buffer), start)
        buffer[: len(data)] = data
        return len(data)
