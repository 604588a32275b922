"""What a run has read or written -> given up by the page cache, so that it keeps what other programs need.

A page that is dirty, or mapped, cannot be dropped: what is written is dropped when it is synced, what is read when it
has been copied from the cache. Only pages that the run has touched are dropped, never what lies beside them.
"""

from __future__ import annotations

import mmap
import os
from bisect import bisect_left
from contextlib import suppress

IS_THERE = hasattr(os, "posix_fadvise")
"""Whether this system has a call for it: macOS and Windows have none. There nothing is dropped, and it is said."""

STEP_BYTES = 1 << 20
"""A file that is read goes from the cache in steps of this size."""
_FOLIO_BYTES = 2 << 20
"""The kernel keeps neighbouring pages as one, of up to this size, and drops it only as a whole: a step begins so much
before the end of the last one."""


class Trail:
    """What has been touched of a file, one range after the other.

    Where the next range may begin in the middle of a page, that page is kept until its end is touched, too. It outlives
    the descriptor that each call names. Not for several threads at a time.
    """

    __slots__ = ("_begin", "_dropped", "_spans", "stop")

    def __init__(self, start: int = 0) -> None:
        self._begin = self._dropped = start
        """Bytes `[begin, stop)` have been touched in one go. Those before `dropped` have been dropped."""
        self._spans: list[tuple[int, int]] = []
        """Whole pages that have been touched before, sorted, and as few spans as possible."""
        self.stop = start

    def touched(self, fd: int, start: int, stop: int) -> None:
        """Bytes `[start, stop)` have been touched, and none of them is dirty or mapped."""
        if start != self.stop:
            self._drop(fd, self.stop)
            self._note()
            self._begin = self._dropped = start
        self.stop = stop
        if stop - self._dropped >= STEP_BYTES:
            self.pause(fd)

    def pause(self, fd: int) -> None:
        """Drop all but the page that the next range may begin in."""
        self._drop(fd, self.stop - self.stop % mmap.PAGESIZE)

    def end(self, fd: int) -> None:
        """Nothing more is touched: drop all, also what could not be dropped without its neighbours before."""
        self._note()
        for start, stop in self._spans:
            drop(fd, start, stop)

    def _drop(self, fd: int, upto: int) -> None:
        if upto > self._dropped:
            drop(fd, max(self._begin, self._dropped - _FOLIO_BYTES), upto)
            self._dropped = upto

    def _note(self) -> None:
        if self.stop == self._begin:
            return
        start, stop = self._begin - self._begin % mmap.PAGESIZE, self.stop + -self.stop % mmap.PAGESIZE
        first = last = bisect_left(self._spans, start, key=lambda span: span[1])
        while last < len(self._spans) and self._spans[last][0] <= stop:
            start, stop = min(start, self._spans[last][0]), max(stop, self._spans[last][1])
            last += 1
        self._spans[first:last] = [(start, stop)]


def kept_instead(*, asked: bool) -> tuple[str, ...]:
    """A warning for who has asked that nothing be kept, where the system has no call for it."""
    return () if IS_THERE or not asked else ("--drop-cache does nothing: this system has no posix_fadvise",)


def drop(fd: int, start: int = 0, stop: int | None = None) -> None:
    """Have the page cache give up the pages that have a byte of `[start, stop)`, to the file's end by default."""
    start -= start % mmap.PAGESIZE
    size_bytes = 0 if stop is None else stop + -stop % mmap.PAGESIZE - start  # of which 0 means all that follow
    if IS_THERE and (stop is None or size_bytes > 0):
        with suppress(OSError):  # it is advice, and some file systems take none
            os.posix_fadvise(fd, start, size_bytes, os.POSIX_FADV_DONTNEED)


def drop_file(path: str, trail: Trail | None = None) -> None:
    """The same of a whole file that is on the disk, or of what has been touched of it."""
    with suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if trail is None:
                drop(fd)
            else:
                trail.end(fd)
        finally:
            os.close(fd)
