"""The checksum of a part of a file, of which a beginning may be there already."""

from __future__ import annotations

import zlib

from hypothesis import given
from hypothesis import strategies as st

from zeroconsolidate.run.checksum import Checksummed
from zeroconsolidate.run.storage import Readable, Writable, copy_range


class Memory(Writable):
    """A file in memory."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)

    def write(self, data: bytes | memoryview, start: int) -> None:
        self.data[start : start + len(data)] = data

    def read_into(self, start: int, buffer: memoryview) -> None:
        buffer[:] = self.data[start : start + len(buffer)]


class Source(Readable):
    """One file in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read_into(self, file: str, start: int, buffer: memoryview) -> None:
        buffer[:] = self.data[start : start + len(buffer)]


class Sharing(Memory):
    """A file that shares so many bytes at a time, and of the rest of an extent that is shorter none."""

    def __init__(self, share: int) -> None:
        super().__init__()
        self.share, self.shared = share, 0

    def copy_from(self, source: Readable, file: str, file_start: int, size_bytes: int, start: int) -> int:
        if size_bytes < self.share:
            return 0
        data = bytearray(self.share)
        source.read_into(file, file_start, memoryview(data))
        self.data[start : start + self.share] = data
        self.shared += self.share
        return self.share


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


@given(before=st.binary(max_size=9), data=st.binary(max_size=60), share=st.integers(1, 20), shares=st.booleans())
def test_what_is_shared_counts_too(before: bytes, data: bytes, share: int, shares: bool):
    output = Sharing(share)
    checked = Checksummed(output, start=len(before), stop=len(before) + len(data), written=0, shares=shares)
    checked.write(before, 0)
    block = memoryview(bytearray(7))
    copy_range(Source(b"?" + data), "file", 1, len(data), checked, len(before), block=block, reached=lambda _: None)
    assert output.data == before + data
    assert checked.value == zlib.crc32(data)
    assert output.shared == (len(data) // share * share if shares else 0)


@given(
    data=st.binary(min_size=1, max_size=60), start=st.integers(0, 60), size=st.integers(0, 60),
    part_bytes=st.integers(1, 20), step=st.integers(1, 25), sent=st.integers(0, 60),
)  # fmt: skip
def test_a_store_has_whole_parts(data: bytes, start: int, size: int, part_bytes: int, step: int, sent: int):
    """What was noted where a part ends goes on with what comes behind it, without a look at what was sent."""

    def write(output: Checksummed, begin: int, stop: int) -> None:
        for here in range(begin, stop, step):
            output.write(data[here : min(here + step, stop)], here)

    sent = min(sent, len(data))
    first = Checksummed(Memory(), start=start, stop=start + size, written=0, part_bytes=part_bytes)
    write(first, 0, sent)
    whole = sent // part_bytes * part_bytes
    assert first.of_parts == zlib.crc32(data[:whole][start : start + size])
    again = Checksummed(
        Memory(), start=start, stop=start + size, written=whole, known=first.of_parts, part_bytes=part_bytes
    )
    write(again, whole, len(data))
    assert again.value == zlib.crc32(data[start : start + size])
