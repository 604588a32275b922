"""A weights file in the making: how far it is, how far it is safe."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Protocol

from .system import system_errors

if TYPE_CHECKING:
    from .journal import Progress

SYNC_BYTES = 512 << 20
SYNC_SECONDS = 5.0
"""How much work lies between two syncs: half of what may be lost (1 GiB, 10 s), as a sync itself takes time."""


class Memory(Protocol):
    """Where it is written down that bytes are safe."""

    def remember(self, name: str, upto: int, facts: dict[str, Any]) -> None:
        """The file `name` has been synced below byte `upto`."""


class Part:
    """`fd` is open for writing, everything below byte `start` is there already.

    `facts` are plain values that are remembered with every sync and given back to the run that continues.
    """

    def __init__(self, path: str, name: str, fd: int, size_bytes: int, *, before: Progress, memory: Memory) -> None:
        self.name = name
        self.fd = fd
        upto = before.upto.get(name, 0)
        # A staged file shorter than the journal says was tampered with; longer, the rest was never vouched for.
        self.start = upto if upto <= min(os.fstat(fd).st_size, size_bytes) else 0
        self.facts: dict[str, Any] = before.facts.get(name, {}) if self.start else {}
        os.ftruncate(fd, self.start)
        self._path = path
        self._memory = memory
        self._upto = self._synced = self.start
        self._clock = time.monotonic()

    def reached(self, upto: int) -> None:
        """Every byte below `upto` is written; synced and remembered when enough work has come together."""
        self._upto = upto
        if upto - self._synced >= SYNC_BYTES or time.monotonic() - self._clock >= SYNC_SECONDS:
            with system_errors(self._path):
                self.sync()

    def sync(self) -> None:
        """Sync what is written, and only then have it remembered."""
        upto = self._upto
        if upto > self._synced:
            os.fsync(self.fd)
            self._memory.remember(self.name, upto, self.facts)
            self._synced = upto
        self._clock = time.monotonic()
