"""A weights file while it is written: how far it is written, and how far it is synced."""

from __future__ import annotations

import copy
import os
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from ..run.local_output import LocalOutput
from .sync import Sync
from .system import system_errors

if TYPE_CHECKING:
    from ..run.clone import Means
    from .journal import Progress

SYNC_BYTES = 256 << 20
SYNC_SECONDS = 5.0
"""How much work lies between two syncs: well below what may be lost (1 GiB, 10 s), as a sync itself takes time. Bytes
that are cloned are no work."""
CLONED = "cloned_bytes"
"""The fact that counts them."""
CHECKSUM, CHECKSUM_OF_PARTS = "crc32", "crc32_of_parts"
"""What is remembered of a fragment in a store: the checksum of its tensor, of all or as far as whole parts reach."""


class Memory(Protocol):
    """Where it is written down that bytes are safe."""

    def remember(self, name: str, upto: int, facts: dict[str, Any]) -> None:
        """The file `name` has been synced below byte `upto`."""


class Part:
    """`output` is where to write it, everything from `begin`, where this run's share of the file begins, to byte
    `start` is there already. `size_bytes`: where the share ends.

    `facts` are plain values that are remembered with every sync and given back to the run that continues.
    Syncs are made by a thread, so that the next bytes are copied while the disk takes the last ones; there is never
    more than one under way, and a writer that is a whole sync ahead waits. :meth:`close` before the descriptor is
    closed.
    """

    def __init__(
        self,
        path: str,
        name: str,
        fd: int,
        size_bytes: int,
        *,
        begin: int = 0,
        before: Progress,
        memory: Memory,
        means: Means,
    ) -> None:
        self.name = name
        self._fd = fd
        upto = before.upto.get(name, begin)
        # A staged file shorter than the journal says was tampered with; longer, the rest was never vouched for.
        self.start = upto if begin <= upto <= min(os.fstat(fd).st_size, size_bytes) else begin
        self.facts: dict[str, Any] = before.facts.get(name, {}) if self.start > begin else {}
        self.output = LocalOutput(path, fd, start=self.start, means=means)
        self._cloned_before: int = self.facts.get(CLONED, 0)
        self._path = path
        self._memory = memory
        self._upto = self._synced = self.start
        self._cloned_synced = 0
        self._clock = time.monotonic()
        self._under_way: Sync | None = None

    def reached(self, upto: int) -> None:
        """Every byte below `upto` is written; synced and remembered when enough work has come together.

        Raises OutputFailed for a sync that failed meanwhile.
        """
        self._upto = upto
        if self.output.cloned_bytes:
            # Threads beside this one may have cloned what lies above.
            self.facts[CLONED] = min(self._cloned_before + self.output.cloned_bytes, upto)
        written_bytes = upto - self._synced - (self.output.cloned_bytes - self._cloned_synced)
        if written_bytes >= SYNC_BYTES or time.monotonic() - self._clock >= SYNC_SECONDS:
            self._begin_sync()

    def sync(self) -> None:
        """Sync what is written, and only then have it remembered. Raises OutputFailed."""
        self._begin_sync()
        self._wait()

    def finish(self, *, sync: bool = True) -> None:
        """Sync the whole file, unless someone else will; a sync that failed before is an error in any case. Raises
        OutputFailed."""
        self._wait()
        with system_errors(self._path):
            if sync:
                os.fsync(self._fd)
                self.output.synced(self._upto)
            else:
                self.output.finish()

    def close(self) -> None:
        """Wait for a sync that is still under way, whatever becomes of it: the descriptor is going to be closed."""
        if self._under_way is not None:
            self._under_way.wait()

    def _begin_sync(self) -> None:
        self._wait()
        if self._upto > self._synced:
            # The facts go on changing while the thread is at work.
            self._under_way = Sync(partial(self._make_safe, self._upto, copy.deepcopy(self.facts)))
            self._under_way.start()
            self._synced, self._cloned_synced = self._upto, self.output.cloned_bytes
        self._clock = time.monotonic()

    def _wait(self) -> None:
        if self._under_way is not None:
            # A failure stays, and is raised again: the kernel tells it once, and the next sync would seem to succeed.
            self._under_way.result()
            self._under_way = None

    def _make_safe(self, upto: int, facts: dict[str, Any]) -> None:
        with system_errors(self._path):
            os.fsync(self._fd)
            self.output.synced(upto)
            self._memory.remember(self.name, upto, facts)
