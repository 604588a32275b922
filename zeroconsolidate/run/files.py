"""Files by path or URL: those of this machine as ever, those of a store by requests that run ahead of the reader."""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING

from ..options.mapped import EVERYTHING_HERE
from ..options.urls import is_url
from .local import NOTHING_KNOWN, LocalFiles

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from contextlib import AbstractContextManager

    from ..options.mapped import Mapped
    from .remote import RemoteFiles
    from .storage import Extent

_LOOKED_AT = 64
"""So many extents tell whether any lies in a store."""


class Files(LocalFiles):
    """Any file that can be named. What reads URLs is imported, and made, when the first one comes."""

    def __init__(
        self,
        places: Mapped = EVERYTHING_HERE,
        *,
        drop_cache: bool = False,
        known: Mapping[str, Mapping[str, int | str]] = NOTHING_KNOWN,
    ) -> None:
        super().__init__(places, drop_cache=drop_cache, known=known)
        self._remote: RemoteFiles | None = None

    def close(self) -> None:
        """Close all files, and give up what has been read ahead."""
        super().close()
        if self._remote is not None:
            self._remote.close()

    def size_bytes(self, file: str) -> int:
        """The length of the file."""
        return self._in_store().size_bytes(file) if is_url(file) else super().size_bytes(file)

    def read_into(self, file: str, start: int, buffer: memoryview) -> None:
        """Fill `buffer` from byte `start` of the file."""
        if is_url(file):
            self._in_store().read_into(file, start, buffer)
        else:
            super().read_into(file, start, buffer)

    def read_runs(
        self, file: str, start: int, *, run_bytes: int, step_bytes: int, count: int, buffer: memoryview
    ) -> None:
        """Fill `buffer` with `count` runs."""
        read = self._in_store().read_runs if is_url(file) else super().read_runs
        read(file, start, run_bytes=run_bytes, step_bytes=step_bytes, count=count, buffer=buffer)

    def expecting(self, extents: Iterable[Extent]) -> AbstractContextManager[None]:
        """Until the end of the block, these will be read, in about this order."""
        coming = iter(extents)
        first = list(islice(coming, _LOOKED_AT))
        if not any(is_url(file) for file, _, _ in first):
            return super().expecting(chain(first, coming))
        return self._in_store().expecting(each for each in chain(first, coming) if is_url(each[0]))

    def _in_store(self) -> RemoteFiles:
        # Two threads may come at once: which of the two is kept does not matter before anything is read ahead.
        if self._remote is None:
            from .remote import RemoteFiles

            self._remote = RemoteFiles()
        return self._remote
