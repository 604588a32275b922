"""Small files that are complete -> synced together, and only then written down as safe.

A sync waits for the disk, however little is to be written. A checkpoint in files of a tensor each has thousands.
"""

from __future__ import annotations

import os
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from ..run.page_cache import drop
from . import part
from .sync import Sync

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


class Batch:
    """Files that wait for their sync. `append` writes records of synced files into the journal.

    Syncs are made by a thread; there is never more than one under way, and who is a whole batch ahead waits.
    :meth:`close` before the journal is closed. The system's errors pass through; of a sync that failed meanwhile, the
    next call raises them.
    """

    def __init__(self, append: Callable[[Sequence[Mapping[str, Any]]], None]) -> None:
        self._append = append
        self._waiting: list[tuple[str, Mapping[str, Any], bool]] = []
        self._bytes = 0
        self._clock = time.monotonic()
        self._under_way: Sync | None = None

    def add(self, path: str, record: Mapping[str, Any], *, drop_cache: bool = False) -> None:
        """A file is complete; `record` is what is to be written down of it once it is synced. Then the page cache may
        drop it."""
        if not self._waiting:
            self._clock = time.monotonic()
        self._waiting.append((path, record, drop_cache))
        self._bytes += record["done"]
        if self._bytes >= part.SYNC_BYTES or time.monotonic() - self._clock >= part.SYNC_SECONDS:
            self._begin()

    @property
    def is_waiting(self) -> bool:
        """Whether any file waits, or is being synced."""
        return bool(self._waiting) or self._under_way is not None

    def settle(self) -> None:
        """Sync the files that wait, and write them down."""
        self._begin()
        self._wait()

    def close(self) -> None:
        """Wait for a sync that is still under way, whatever becomes of it."""
        if self._under_way is not None:
            self._under_way.wait()

    def _begin(self) -> None:
        self._wait()
        if self._waiting:
            self._under_way = Sync(partial(self._make_safe, self._waiting))
            self._under_way.start()
            self._waiting, self._bytes = [], 0

    def _wait(self) -> None:
        if self._under_way is not None:
            # A failure stays, and is raised again: the kernel tells it once, and the next sync would seem to succeed.
            self._under_way.result()
            self._under_way = None

    def _make_safe(self, files: Sequence[tuple[str, Mapping[str, Any], bool]]) -> None:
        for path, _, drops in files:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
                if drops:
                    drop(fd)
            finally:
                os.close(fd)
        self._append([record for _, record, _ in files])
