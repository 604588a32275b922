"""What will be read of files of this machine -> the kernel reads it beforehand, while what came before is written.

By itself the kernel reads ahead within a file, and begins anew in each. Values of one tensor lie in as many files as
there are ranks.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from ..errors import DamagedFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from .storage import Extent

AHEAD_BYTES = 32 << 20
"""So much is asked for before it is read. `tools/bench_reads.py` measures it."""
_PIECE_BYTES = 4 << 20
"""One request."""


class Ahead:
    """Asks for what comes next whenever something has been read; for several threads.

    `opened(path)` gives a descriptor. Nothing is asked for before the first read: what is cloned is never read.
    """

    def __init__(self, extents: Iterable[Extent], opened: Callable[[str], int]) -> None:
        self._coming = _pieces(extents)
        self._opened = opened
        self._asking, self._counting = threading.Lock(), threading.Lock()
        self._read_bytes = self._asked_bytes = 0

    def has_read(self, size_bytes: int) -> None:
        """So many bytes more have been read."""
        with self._counting:
            self._read_bytes += size_bytes
        # One thread asks; the others have better things to do.
        if self._asking.acquire(blocking=False):
            try:
                self._ask()
            finally:
                self._asking.release()

    def _ask(self) -> None:
        while self._asked_bytes < self._read_bytes + AHEAD_BYTES:
            extent = next(self._coming, None)
            if extent is None:
                return
            file, start, stop = extent
            try:
                os.posix_fadvise(self._opened(file), start, stop - start, os.POSIX_FADV_WILLNEED)
            except (OSError, DamagedFile):
                self._coming = iter(())  # who reads the file says what is wrong with it
                return
            self._asked_bytes += stop - start


def _pieces(extents: Iterable[Extent]) -> Iterator[Extent]:
    for file, start, stop in extents:
        for first in range(start, stop, _PIECE_BYTES):
            yield file, first, min(first + _PIECE_BYTES, stop)
