"""Open input files, a bounded number at a time, and exact reads from them."""

from __future__ import annotations

import mmap
import os
from collections import OrderedDict
from typing import TYPE_CHECKING, Self

from ..archive.regular import open_regular
from ..errors import DamagedFile, at
from ..plan.pieces import ZEROS

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray

    from ..adapters.by_peft import Peft
    from ..adapters.recipes import ModuleJob
    from ..plan.pieces import Recipe
    from .fill import Reader

MAX_OPEN = 256
"""Open input files at a time: a thousand ranks must fit under the usual limit of 1,024 descriptors."""


class Inputs:
    """Descriptors by path, the least recently used closed first. Use it as a context manager."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, int] = OrderedDict()
        self.readers: list[tuple[Recipe, Reader]] = []
        """The last readers that are worth keeping; :mod:`.fill` looks after them."""
        self.peft: Peft | None = None
        self.last_module: tuple[ModuleJob, dict[str, NDArray[np.generic]]] | None = None
        """What merges modules, and the last one merged; :mod:`.by_peft` looks after them."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.peft is not None:
            self.peft.close()
        while self._open:
            os.close(self._open.popitem()[1])

    def fd(self, path: str) -> int:
        """A descriptor of the file, open for reading until MAX_OPEN others have been asked for."""
        known = self._open.get(path)
        if known is not None:
            self._open.move_to_end(path)
            return known
        while len(self._open) >= MAX_OPEN:
            os.close(self._open.popitem(last=False)[1])
        try:
            opened = open_regular(path)
        except OSError as error:
            raise DamagedFile(f"{path} cannot be read any more: {error.strerror}") from None
        self._open[path] = opened
        return opened

    def read_into(self, path: str, start: int, buffer: memoryview) -> None:
        """Fill `buffer` (bytes) from byte `start` of the file. Raises DamagedFile where the file ends before."""
        if path == ZEROS:
            buffer[:] = bytes(len(buffer))
            return
        fd = self.fd(path)
        done = 0
        while done < len(buffer):
            got = _preadv(path, fd, buffer[done:], start + done)
            if not got:
                raise ended_early(path, start + len(buffer), start + done)
            done += got

    def map(self, path: str, start: int, size_bytes: int) -> tuple[mmap.mmap, int]:
        """A read-only mapping that contains bytes `[start, start + size_bytes)`, and where in it they begin."""
        fd = self.fd(path)
        if start + size_bytes > os.fstat(fd).st_size:
            raise ended_early(path, start + size_bytes, os.fstat(fd).st_size)
        skipped = start % mmap.ALLOCATIONGRANULARITY
        return mmap.mmap(fd, size_bytes + skipped, access=mmap.ACCESS_READ, offset=start - skipped), skipped


def _preadv(path: str, fd: int, buffer: memoryview, start: int) -> int:
    try:
        return os.preadv(fd, [buffer], start)
    except OSError as error:
        raise DamagedFile(f"{path} cannot be read: {error.strerror}") from None


def ended_early(path: str, expected: int, got: int) -> DamagedFile:
    """The error for a file that is shorter than its own directory says."""
    with at(path):
        return DamagedFile(f"the file ends too early; expected at least {expected} bytes, got {got}", address=(path,))
