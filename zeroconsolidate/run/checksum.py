"""A file that is written -> the CRC-32 of a part of it, taken of each block while it is still in the cache."""

from __future__ import annotations

import zlib

from .storage import Writable

_BLOCK_BYTES = 1 << 20


class Checksummed(Writable):
    """Writes into `output`, and keeps the CRC-32 of bytes `[start, stop)`, as far as they are written.

    Blocks come in ascending order. All bytes below `written` are there already; they are read back.
    """

    def __init__(self, output: Writable, *, start: int, stop: int, written: int) -> None:
        self._output, self._start, self._stop = output, start, stop
        self.value = 0
        """The checksum of what is written."""
        block = memoryview(bytearray(min(_BLOCK_BYTES, max(min(written, stop) - start, 0))))
        for here in range(start, min(written, stop), _BLOCK_BYTES):
            part = block[: min(written, stop) - here]
            output.read_into(here, part)
            self.value = zlib.crc32(part, self.value)

    def write(self, data: bytes | memoryview, start: int) -> None:
        """All of `data` at byte `start`."""
        self._output.write(data, start)
        inside = memoryview(data)[max(self._start - start, 0) : max(self._stop - start, 0)]
        self.value = zlib.crc32(inside, self.value)

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill `buffer` with what has been written."""
        self._output.read_into(start, buffer)
