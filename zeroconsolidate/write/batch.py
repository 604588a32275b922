"""Small files that are complete -> synced together, and only then written down as safe.

A sync waits for the disk, however little is to be written. A checkpoint in files of a tensor each has thousands.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from . import part

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


class Batch:
    """Files that wait for their sync. `append` writes records of synced files into the journal.

    The system's errors pass through.
    """

    def __init__(self, append: Callable[[Sequence[Mapping[str, Any]]], None]) -> None:
        self._append = append
        self._waiting: list[tuple[str, Mapping[str, Any]]] = []
        self._bytes = 0
        self._clock = time.monotonic()

    def add(self, path: str, record: Mapping[str, Any]) -> None:
        """A file is complete; `record` is what is to be written down of it once it is synced."""
        if not self._waiting:
            self._clock = time.monotonic()
        self._waiting.append((path, record))
        self._bytes += record["done"]
        if self._bytes >= part.SYNC_BYTES or time.monotonic() - self._clock >= part.SYNC_SECONDS:
            self.settle()

    @property
    def is_waiting(self) -> bool:
        """Whether any file waits."""
        return bool(self._waiting)

    def settle(self) -> None:
        """Sync the files that wait, and write them down."""
        if not self._waiting:
            return
        for path, _ in self._waiting:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        self._append([record for _, record in self._waiting])
        self._waiting, self._bytes = [], 0
