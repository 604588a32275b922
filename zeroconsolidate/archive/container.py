"""torch's zip container, read by its own directory: where each record's bytes begin, and the pickle.

A `.pt` file written by `torch.save` since torch 1.6 is a zip archive of stored (never deflated) records:

    mp_rank_00_model_states/data.pkl      the object, with persistent ids in place of storages
    mp_rank_00_model_states/byteorder     "little" or "big" (torch >= 2.1)
    mp_rank_00_model_states/data/0        raw bytes of storage "0", aligned to 64 bytes
    ...

The first path component is the file's own stem, or `archive` when the writer was handed an open file. The
alignment is padding in the extra field of each record's *local* header, which the central directory does not
repeat: the start of the data can only be computed from the local header
(mirrors PyTorchStreamWriter in torch `caffe2/serialize/inline_container.cc`).
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, NamedTuple, Self

from ..errors import DamagedFile, at
from .regular import open_regular

if TYPE_CHECKING:
    from types import TracebackType

MAX_PICKLE_BYTES = 1 << 28
"""A `data.pkl` larger than this is refused. Real ones take about 150 bytes a tensor."""
MAX_RECORDS = 1 << 20
"""More records than this are refused. There is one for each storage, and a handful of others."""

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s4xHH4xIIIHHH8xI")
"""signature, flags, method, CRC-32, packed and unpacked bytes, lengths of name, extra, comment, start of the header"""
_END = struct.Struct("<4s4H2IH")
_END64_LOCATOR = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQ2H2I4Q")
_MAX_COMMENT_BYTES = 0xFFFF


class _Record(NamedTuple):
    header_start: int
    size_bytes: int
    stop: int
    """Where the next record, or the zip directory, begins."""
    stored: bool
    crc32: int


class ZipContainer:
    """An open zip container; use it as a context manager.

    Raises DamagedFile if the file is empty, truncated, no zip, or if a record lies outside of it, and UnsafePath
    if it is no regular file.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = open_regular(path)
        try:
            self.size_bytes = os.fstat(self._fd).st_size
            self._records = _directory(self._fd, self.size_bytes)
            self._prefix = _prefix(self._records)
            self.big_endian = f"{self._prefix}/byteorder" in self._records and self._is_big_endian()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    @property
    def form(self) -> str:
        """What wrote it, as `RawFile.container` says."""
        return "torch zip (archive/)" if self._prefix == "archive" else "torch zip"

    def read_pickle(self) -> bytes:
        """The bytes of `data.pkl`."""
        return self.read("data.pkl", limit_bytes=MAX_PICKLE_BYTES)

    def read(self, name: str, *, limit_bytes: int) -> bytes:
        """The whole record `name`, which must not be larger than `limit_bytes`."""
        record = self._record(name)
        if record.size_bytes > limit_bytes:
            raise DamagedFile(
                f"the record {name!r} is too large to be read; "
                f"expected at most {limit_bytes} bytes, got {record.size_bytes}"
            )
        return self.pread(record.size_bytes, self.start(name))

    def pread(self, size_bytes: int, start: int) -> bytes:
        """Exactly `size_bytes` bytes of the file from `start`."""
        return _pread(self._fd, size_bytes, start)

    @property
    def names(self) -> list[str]:
        """The names of all records, without the folder they share."""
        return [name.removeprefix(f"{self._prefix}/") for name in self._records]

    @property
    def checksums(self) -> list[tuple[str, int, int]]:
        """Name, size and CRC-32 of every record, as the zip directory states them."""
        return [(name, record.size_bytes, record.crc32) for name, record in self._records.items()]

    def checksum(self, name: str) -> tuple[int, int, int]:
        """Where the data of record `name` begins and how many bytes they are, and their CRC-32 as the zip says it."""
        record = self._record(name)
        return self.start(name), record.size_bytes, record.crc32

    def storage(self, key: str, size_bytes: int) -> int:
        """The byte at which storage `key` begins; the record must hold at least `size_bytes`."""
        record = self._record(f"data/{key}")
        if record.size_bytes < size_bytes:
            raise DamagedFile(
                f"the storage {shown_name(key)} is shorter than the pickle says; "
                f"expected {size_bytes} bytes, got {record.size_bytes}"
            )
        # DeepSpeed's stage-3 model files have one empty placeholder a parameter: nobody will read them,
        # so their local headers are not worth a system call each.
        return self.start(f"data/{key}") if size_bytes else 0

    def start(self, name: str) -> int:
        """The byte of the file at which the data of record `name` begins."""
        record = self._record(name)
        with at(name):
            full_name = f"{self._prefix}/{name}".encode("utf-8", "surrogateescape")
            header = self.pread(_LOCAL.size + len(full_name), record.header_start)
            signature, *_, name_bytes, extra_bytes = _LOCAL.unpack_from(header)
            if signature != b"PK\x03\x04":
                raise DamagedFile("a record's local header is not where the zip directory says")
            if name_bytes != len(full_name) or header[_LOCAL.size :] != full_name:
                raise DamagedFile("a record's local header has another name than the zip directory")
            start: int = record.header_start + len(header) + extra_bytes
            if start + record.size_bytes > record.stop:
                raise DamagedFile(
                    f"a record overlaps what follows it; "
                    f"expected to end before byte {record.stop}, got {start + record.size_bytes}"
                )
        return start

    def _is_big_endian(self) -> bool:
        order = self.read("byteorder", limit_bytes=16)
        if order not in (b"little", b"big"):
            raise DamagedFile(f"the byte order is unknown; expected little or big, got {order!r}")
        return order == b"big"

    def _record(self, name: str) -> _Record:
        record = self._records.get(f"{self._prefix}/{name}")
        if record is None:
            raise DamagedFile(f"the container has no record {shown_name(name)}")
        if not record.stored:
            raise DamagedFile(
                f"the record {shown_name(name)} is compressed or encrypted; torch stores records as they are"
            )
        return record


def _pread(fd: int, size_bytes: int, start: int) -> bytes:
    data = os.pread(fd, size_bytes, start)
    while len(data) < size_bytes:
        more = os.pread(fd, size_bytes - len(data), start + len(data))
        if not more:
            raise DamagedFile(f"the file ends too early; expected {start + size_bytes} bytes, got {start + len(data)}")
        data += more
    return data


def _directory(fd: int, size_bytes: int) -> dict[str, _Record]:
    """The records by name, from the central directory. Like torch's, it must have them in the order of the file."""
    if size_bytes == 0:
        raise DamagedFile("the file is empty; expected a torch checkpoint, got 0 bytes")
    count, directory_bytes, start = _end_of_directory(fd, size_bytes)
    if count > MAX_RECORDS or start + directory_bytes > size_bytes or count * _CENTRAL.size > directory_bytes:
        raise DamagedFile(f"the zip directory is impossible; got {count} records in {directory_bytes} bytes at {start}")
    if directory_bytes > count * _MAX_ENTRY_BYTES:
        raise DamagedFile(f"the zip directory is too large; got {directory_bytes} bytes for {count} records")
    data = _pread(fd, directory_bytes, start)
    records: dict[str, _Record] = {}
    position = end = 0
    before: tuple[str, int, int, bool, int] | None = None
    for _ in range(count):
        if position + _CENTRAL.size > len(data):
            raise DamagedFile(f"the zip directory ends too early; expected {count} records, got {len(records)}")
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
            raise DamagedFile(f"the records {shown_name(before[0] if before else '')} and {shown_name(name)} overlap")
        if before is not None:
            _add(records, before, header_start)
        end = header_start + _LOCAL.size + name_bytes + packed
        stored = method == 0 and packed == unpacked and not flags & 1
        before = (name, header_start, unpacked, stored, crc32)
    if end > start:
        raise DamagedFile(f"the record {shown_name(before[0] if before else '')} reaches into the zip directory")
    if before is not None:
        _add(records, before, start)
    if position != len(data):
        raise DamagedFile(f"the zip directory is longer than its records; expected {position} bytes, got {len(data)}")
    return records


_MAX_ENTRY_BYTES = _CENTRAL.size + 256
"""On average, name and extra fields of a record in the directory. Real ones have 30 bytes of name and 28 of extra."""


def _add(records: dict[str, _Record], record: tuple[str, int, int, bool, int], stop: int) -> None:
    name, header_start, size_bytes, stored, crc32 = record
    if name in records:
        raise DamagedFile(f"the container has the record {shown_name(name)} twice")
    records[name] = _Record(header_start, size_bytes, stop, stored, crc32)


def shown_name(name: str) -> str:
    """A record's name for an error."""
    return repr(name[:80]) + ("…" if len(name) > 80 else "")


def _end_of_directory(fd: int, size_bytes: int) -> tuple[int, int, int]:
    """(number of records, directory's bytes, directory's start).

    The end record must be the last thing in the file. Zip allows a comment behind it, in which another end
    record can be hidden so that two readers see two archives; torch never writes one.
    """
    end_start = size_bytes - _END.size
    tail = _pread(fd, _END.size, end_start) if end_start >= 0 else b""
    if not tail.startswith(b"PK\x05\x06"):
        raise _no_end(fd, size_bytes)
    _, _, _, _, count, directory_bytes, start, comment_bytes = _END.unpack(tail)
    if comment_bytes:
        raise DamagedFile(f"the zip directory announces a comment of {comment_bytes} bytes, which is not there")
    locator_start = end_start - _END64_LOCATOR.size
    if locator_start >= 0:
        signature, _, end64_start, _ = _END64_LOCATOR.unpack(_pread(fd, _END64_LOCATOR.size, locator_start))
        if signature == b"PK\x06\x07":
            if end64_start + _END64.size > locator_start:
                raise DamagedFile("the zip64 end record lies outside of the file")
            end64 = _END64.unpack(_pread(fd, _END64.size, end64_start))
            if end64[0] != b"PK\x06\x06":
                raise DamagedFile("the zip64 end record is not where its locator says")
            count, directory_bytes, start = end64[7:10]
            end_start = end64_start
    if start + directory_bytes > end_start:
        raise DamagedFile(
            f"the zip directory lies outside of the file; expected it to end before byte {end_start}, "
            f"got {start + directory_bytes}"
        )
    return count, directory_bytes, start


def _no_end(fd: int, size_bytes: int) -> DamagedFile:
    """The error for a file that does not end in a zip directory."""
    if _pread(fd, min(4, size_bytes), 0) != b"PK\x03\x04":
        return DamagedFile("the file is not a torch checkpoint: it is no zip archive")
    tail_bytes = min(size_bytes, _END.size + _MAX_COMMENT_BYTES)
    if b"PK\x05\x06" in _pread(fd, tail_bytes, size_bytes - tail_bytes)[: 4 - _END.size]:
        return DamagedFile("the file goes on behind its zip directory: something was appended to it")
    return DamagedFile(
        f"the file is truncated: the zip directory that torch writes last is missing after {size_bytes} bytes"
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


def _prefix(records: dict[str, _Record]) -> str:
    found = [name for name in records if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(found) != 1:
        raise DamagedFile(
            f"the file is a zip archive but not a torch checkpoint; expected one data.pkl, got {len(found)}"
        )
    return found[0].removesuffix("/data.pkl")
