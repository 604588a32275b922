"""torch's zip container -> its pickle, and the byte at which each record begins.

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

from ..errors import DamagedFile, at
from .printable import described
from .regular import OpenFile
from .zip_directory import Record, read_directory
from .zip_format import LOCAL_HEADER

_HEADER_BYTES = 256
"""No local header that torch writes is longer: 30 bytes, a name such as `bf16_zero_pp_rank_0_…/data/0`, padding."""
MAX_PICKLE_BYTES = 1 << 28
"""A `data.pkl` larger than this is refused. Real ones take about 150 bytes a tensor."""


class ZipContainer(OpenFile):
    """An open zip container; use it as a context manager.

    Raises DamagedFile if the file is empty, truncated, not a zip, or if a record lies outside of it, and UnsafePath if
    it is not a regular file.
    """

    def _begin(self) -> None:
        self._records = read_directory(self._file)
        self._prefix = _prefix(self._records)
        if self._file.is_remote:
            self._expect_headers()
        self.big_endian = f"{self._prefix}/byteorder" in self._records and self._is_big_endian()

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
                f"the record {name!r} is too large to be read",
                expected=f"at most {limit_bytes} bytes",
                found=record.size_bytes,
            )
        return self.pread(record.size_bytes, self.start(name))

    @property
    def names(self) -> list[str]:
        """The names of all records, without the folder they share."""
        return [name.removeprefix(f"{self._prefix}/") for name in self._records]

    @property
    def checksums(self) -> list[tuple[str, int, int]]:
        """Name, size and CRC-32 of every record, as the zip directory states them."""
        return [(name, record.size_bytes, record.crc32) for name, record in self._records.items()]

    def checksum(self, name: str) -> tuple[int, int, int]:
        """Where the data of record `name` begins, its size in bytes, and its CRC-32 as the zip directory states it."""
        record = self._record(name)
        return self.start(name), record.size_bytes, record.crc32

    def storage(self, key: str, size_bytes: int) -> int:
        """The byte at which storage `key` begins; the record must hold at least `size_bytes`."""
        record = self._record(f"data/{key}")
        if record.size_bytes < size_bytes:
            raise DamagedFile(
                f"the storage {described(key)} is shorter than the pickle says",
                expected=f"{size_bytes} bytes",
                found=record.size_bytes,
            )
        # DeepSpeed's stage-3 model files have one empty placeholder a parameter: nobody will read them,
        # so their local headers are not worth a system call each.
        return self.start(f"data/{key}") if size_bytes else 0

    def start(self, name: str) -> int:
        """The byte of the file at which the data of record `name` begins."""
        record = self._record(name)
        with at(name):
            full_name = f"{self._prefix}/{name}".encode("utf-8", "surrogateescape")
            header = self.pread(LOCAL_HEADER.size + len(full_name), record.header_start)
            signature, *_, name_bytes, extra_bytes = LOCAL_HEADER.unpack_from(header)
            if signature != b"PK\x03\x04":
                raise DamagedFile("a record's local header is not where the zip directory says")
            if name_bytes != len(full_name) or header[LOCAL_HEADER.size :] != full_name:
                raise DamagedFile("a record's local header has another name than the zip directory")
            start: int = record.header_start + len(header) + extra_bytes
            if start + record.size_bytes > record.stop:
                raise DamagedFile(
                    "a record overlaps what follows it",
                    expected=f"to end before byte {record.stop}",
                    found=start + record.size_bytes,
                )
        return start

    def _expect_headers(self) -> None:
        """Every local header will be read, and behind it the value of a tensor of one element."""
        self._file.expect(
            (record.header_start, record.header_start + _HEADER_BYTES)
            for record in self._records.values()
            if record.size_bytes
        )

    def _is_big_endian(self) -> bool:
        order = self.read("byteorder", limit_bytes=16)
        if order not in (b"little", b"big"):
            raise DamagedFile("the byte order is unknown", expected="little or big", found=repr(order))
        return order == b"big"

    def _record(self, name: str) -> Record:
        record = self._records.get(f"{self._prefix}/{name}")
        if record is None:
            raise DamagedFile(f"the container has no record {described(name)}")
        if not record.stored:
            raise DamagedFile(
                f"the record {described(name)} is compressed or encrypted",
                consequence="torch stores records as they are",
            )
        return record


def _prefix(records: dict[str, Record]) -> str:
    found = [name for name in records if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(found) != 1:
        raise DamagedFile(
            "the file is a zip archive but not a torch checkpoint", expected="one data.pkl", found=len(found)
        )
    return found[0].removesuffix("/data.pkl")
