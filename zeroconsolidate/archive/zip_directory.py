"""The directory at the end of a zip file -> its records, where they begin and must end.

Read more strictly than zip allows, because two readers must not see two archives in one file: nothing follows the
directory, records do not overlap, none has two entries. torch writes no other files.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from ..errors import DamagedFile
from .printable import described
from .zip_format import END, END64, END64_LOCATOR, LOCAL_HEADER

if TYPE_CHECKING:
    from .regular import Positioned

MAX_RECORDS = 1 << 20
"""More records than this are refused. There is one for each storage, and a handful of others."""

_CENTRAL = struct.Struct("<4s4xHH4xIIIHHH8xI")
"""signature, flags, method, CRC-32, packed and unpacked bytes, lengths of name, extra, comment, start of the header"""
_MAX_COMMENT_BYTES = 0xFFFF


class Record(NamedTuple):
    """What the directory says of a record."""

    header_start: int
    size_bytes: int
    stop: int
    """Where the next record, or the zip directory, begins."""
    stored: bool
    crc32: int


def read_directory(file: Positioned) -> dict[str, Record]:
    """The records by name, from the central directory. As torch writes it, they must be in the order of the file.

    Raises DamagedFile if the file is empty, truncated, or not a zip, or if a record lies outside of it.
    """
    size_bytes = file.size_bytes
    if size_bytes == 0:
        raise DamagedFile("the file is empty", expected="a torch checkpoint", found="0 bytes")
    count, directory_bytes, start = _end_of_directory(file, size_bytes)
    if count > MAX_RECORDS or start + directory_bytes > size_bytes or count * _CENTRAL.size > directory_bytes:
        raise DamagedFile(
            "the zip directory is impossible", found=f"{count} records in {directory_bytes} bytes at {start}"
        )
    if directory_bytes > count * _MAX_ENTRY_BYTES:
        raise DamagedFile("the zip directory is too large", found=f"{directory_bytes} bytes for {count} records")
    data = file.pread(directory_bytes, start)
    records: dict[str, Record] = {}
    position = end = 0
    before: tuple[str, int, int, bool, int] | None = None
    for _ in range(count):
        if position + _CENTRAL.size > len(data):
            raise DamagedFile("the zip directory ends too early", expected=f"{count} records", found=len(records))
        (signature, flags, method, crc32, packed, unpacked, name_bytes, extra_bytes, comment_bytes, header_start) = (
            _CENTRAL.unpack_from(data, position)
        )
        if signature != b"PK\x01\x02":
            raise DamagedFile("the zip directory is damaged")
        position += _CENTRAL.size
        name = data[position : position + name_bytes].decode("utf-8", "surrogateescape")
        position += name_bytes
        if 0xFFFFFFFF in (packed, unpacked, header_start):
            extra = data[position : position + extra_bytes]
            unpacked, packed, header_start = _zip64(extra, unpacked, packed, header_start)
        position += extra_bytes + comment_bytes
        if header_start < end:
            raise DamagedFile(f"the records {described(before[0] if before else '')} and {described(name)} overlap")
        if before is not None:
            _add(records, before, header_start)
        end = header_start + LOCAL_HEADER.size + name_bytes + packed
        stored = method == 0 and packed == unpacked and not flags & 1
        before = (name, header_start, unpacked, stored, crc32)
    if end > start:
        raise DamagedFile(f"the record {described(before[0] if before else '')} reaches into the zip directory")
    if before is not None:
        _add(records, before, start)
    if position != len(data):
        raise DamagedFile("the zip directory is longer than its records", expected=f"{position} bytes", found=len(data))
    return records


_MAX_ENTRY_BYTES = _CENTRAL.size + 256
"""On average, name and extra fields of a record in the directory. Real ones have 30 bytes of name and 28 of extra."""


def _add(records: dict[str, Record], record: tuple[str, int, int, bool, int], stop: int) -> None:
    name, header_start, size_bytes, stored, crc32 = record
    if name in records:
        raise DamagedFile(f"the container has the record {described(name)} twice")
    records[name] = Record(header_start, size_bytes, stop, stored, crc32)


def _end_of_directory(file: Positioned, size_bytes: int) -> tuple[int, int, int]:
    """(number of records, directory's bytes, directory's start).

    The end record must be the last thing in the file. Zip allows a comment behind it, in which another end
    record can be hidden so that two readers see two archives; torch never writes one.
    """
    end_start = size_bytes - END.size
    tail = file.pread(END.size, end_start) if end_start >= 0 else b""
    if not tail.startswith(b"PK\x05\x06"):
        raise _no_end(file, size_bytes)
    _, _, _, _, count, directory_bytes, start, comment_bytes = END.unpack(tail)
    if comment_bytes:
        raise DamagedFile(f"the zip directory announces a comment of {comment_bytes} bytes, which is not there")
    locator_start = end_start - END64_LOCATOR.size
    if locator_start >= 0:
        signature, _, end64_start, _ = END64_LOCATOR.unpack(file.pread(END64_LOCATOR.size, locator_start))
        if signature == b"PK\x06\x07":
            if end64_start + END64.size > locator_start:
                raise DamagedFile("the zip64 end record lies outside of the file")
            end64 = END64.unpack(file.pread(END64.size, end64_start))
            if end64[0] != b"PK\x06\x06":
                raise DamagedFile("the zip64 end record is not where its locator says")
            count, directory_bytes, start = end64[7:10]
            end_start = end64_start
    if start + directory_bytes > end_start:
        raise DamagedFile(
            "the zip directory lies outside of the file",
            expected=f"it to end before byte {end_start}",
            found=start + directory_bytes,
        )
    return count, directory_bytes, start


def _no_end(file: Positioned, size_bytes: int) -> DamagedFile:
    """The error for a file that does not end in a zip directory."""
    if file.pread(min(4, size_bytes), 0) != b"PK\x03\x04":
        return DamagedFile("the file is not a torch checkpoint: it is not a zip archive")
    tail_bytes = min(size_bytes, END.size + _MAX_COMMENT_BYTES)
    if b"PK\x05\x06" in file.pread(tail_bytes, size_bytes - tail_bytes)[: 4 - END.size]:
        return DamagedFile("the file has bytes after its zip directory: something was appended to it")
    return DamagedFile(
        "the file is truncated",
        expected="the zip directory that torch writes last",
        found=f"the end after {size_bytes} bytes",
    )


def _zip64(extra: bytes, unpacked: int, packed: int, header_start: int) -> tuple[int, int, int]:
    """Replace the fields that did not fit 32 bits by those of the zip64 extra field, in the order zip lays down."""
    fields = [unpacked, packed, header_start]
    if 0xFFFFFFFF not in fields:
        return unpacked, packed, header_start
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        if kind == 1:
            wide = [i for i, value in enumerate(fields) if value == 0xFFFFFFFF]
            if length < 8 * len(wide) or position + 4 + length > len(extra):
                break
            for i, value in zip(wide, struct.unpack_from(f"<{len(wide)}Q", extra, position + 4), strict=True):
                fields[i] = value
            return fields[0], fields[1], fields[2]
        position += 4 + length
    raise DamagedFile("a record larger than 4 GiB has no zip64 field")
