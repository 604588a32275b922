"""A file that is written -> the CRC-32 of a part of it, taken of each block while it is still in the cache."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from .storage import Writable

if TYPE_CHECKING:
    from .storage import Readable

_BLOCK_BYTES = 1 << 20


class Checksummed(Writable):
    """Writes into `output`, and keeps the CRC-32 of bytes `[start, stop)`, as far as they are written.

    Blocks come in ascending order. All bytes below `written` are there already; they are read back, unless `known` is
    the checksum of those. With `shares`, `output` may share blocks of input files, and what it has shared is read from
    these. Where a store has a file in parts of `part_bytes`, the checksum is kept of where the last part ends.
    """

    def __init__(
        self,
        output: Writable,
        *,
        start: int,
        stop: int,
        written: int,
        shares: bool = False,
        known: int | None = None,
        part_bytes: int | None = None,
    ) -> None:
        self._output, self._start, self._stop, self._shares = output, start, stop, shares
        self._part_bytes = part_bytes
        self.value = self.of_parts = 0 if known is None else known
        """The checksum of what is written, and of what of it is whole parts."""
        if known is not None:
            return
        block = memoryview(bytearray(min(_BLOCK_BYTES, max(min(written, stop) - start, 0))))
        for here in range(start, min(written, stop), _BLOCK_BYTES):
            part = block[: min(written, stop) - here]
            output.read_into(here, part)
            self.value = zlib.crc32(part, self.value)

    def write(self, data: bytes | memoryview, start: int) -> None:
        """All of `data` at byte `start`."""
        self._output.write(data, start)
        view = memoryview(data)
        if self._part_bytes is not None:
            end = (start + len(view)) // self._part_bytes * self._part_bytes
            if end > start:
                self._add(view[: end - start], start)
                self.of_parts = self.value
                view, start = view[end - start :], end
        self._add(view, start)

    def _add(self, view: memoryview, start: int) -> None:
        inside = view[max(self._start - start, 0) : max(self._stop - start, 0)]
        self.value = zlib.crc32(inside, self.value)

    def copy_from(self, source: Readable, file: str, file_start: int, size_bytes: int, start: int) -> int:
        """As `output` does it, if that may be by sharing blocks: bytes that move are summed up on their way."""
        if not self._shares:
            return 0
        got = self._output.copy_from(source, file, file_start, size_bytes, start)
        block = memoryview(bytearray(min(_BLOCK_BYTES, got)))
        for here in range(0, got, _BLOCK_BYTES):
            part = block[: got - here]
            source.read_into(file, file_start + here, part)
            self.value = zlib.crc32(part, self.value)
        return got

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill `buffer` with what has been written."""
        self._output.read_into(start, buffer)
