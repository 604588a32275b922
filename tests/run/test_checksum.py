"""The checksum of a part of a file, of which a beginning may be there already."""

from __future__ import annotations

import zlib

from hypothesis import given
from hypothesis import strategies as st

from zeroconsolidate.run.checksum import Checksummed
from zeroconsolidate.run.storage import Writable


class Memory(Writable):
    """A file in memory."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)

    def write(self, data: bytes | memoryview, start: int) -> None:
        self.data[start : start + len(data)] = data

    def read_into(self, start: int, buffer: memoryview) -> None:
        buffer[:] = self.data[start : start + len(buffer)]


@given(
    data=st.binary(max_size=60), start=st.integers(0, 60), size=st.integers(0, 60), written=st.integers(0, 60),
    step=st.integers(1, 20),
)  # fmt: skip
def test_it_is_that_of_the_bytes_in_the_file(data: bytes, start: int, size: int, written: int, step: int):
    written = min(written, len(data))
    memory = Memory(data[:written])
    output = Checksummed(memory, start=start, stop=start + size, written=written)
    for here in range(written, len(data), step):
        output.write(memoryview(data)[here : here + step], here)
    assert memory.data == data
    assert output.value == zlib.crc32(data[start : start + size])
    block = memoryview(bytearray(len(data)))
    output.read_into(0, block)
    assert block == data
