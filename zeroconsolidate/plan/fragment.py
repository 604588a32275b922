"""A file of torch with one tensor in it: a small zip around plain bytes, for `torch.load`.

    fp32/data.pkl        the pickle: a dict, or the tensor alone                      known before
    fp32/byteorder       "little"                                                     anything is
    fp32/version         "3"                                                          copied
    fp32/data/0          the tensor's bytes, from a multiple of 64 on, or where they can share blocks of the input
    (its checksum, and the zip directory, which repeats it)                           known behind them

All up to the tensor's bytes is the file's header, and what is behind them its tail. A record's checksum stands behind
its data, as torch has it too, so that a file is written from its first byte to its last (mirrors
PyTorchStreamWriter in torch `caffe2/serialize/inline_container.cc`).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from ..archive.zip_format import END, END64, END64_LOCATOR, LOCAL_HEADER
from .congruent import fit
from .layout import FilePlan, TensorPlan
from .pickled import Stored, pickled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .congruent import Sharing

LEAST_SHARED_BYTES = 64 << 10
"""Less than this is sooner written than shared, unless all that can be shared must be."""
MOST_MODULUS = 1 << 15
"""A record's local header is padded by less than 64 KiB, and the padding is not all that is in it."""
ALIGNMENT_BYTES = 64
"""torch aligns records to it, so that they can be mapped into memory."""
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_FLAGS = 0x0808
"""The checksum stands behind the data; names are UTF-8."""
_MOST = 0xFFFFFFFF
"""A size or place beyond it is in the extra field, and this in its stead."""
_VERSION = 45
"""Of zip: the first with sizes of 64 bits."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A record, as the zip directory lists it."""

    name: bytes
    header_start: int
    size_bytes: int
    crc32: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FragmentPlan(FilePlan):
    """A file of torch. Its header ends where the data of its only tensor begins; without tensors it is the header."""

    entries: tuple[Entry, ...]
    """The records whose checksums are known."""
    record_start: int
    """Where the record of the tensor begins: its local header, the last of `header`."""
    shared_bytes: int = 0
    """How many bytes of the tensor can share the blocks of input files."""

    @property
    def data_bytes(self) -> int:
        """The size of the tensor."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def tail_start(self) -> int:
        """Where the data ends."""
        return len(self.header) + self.data_bytes

    def tail(self, crc32: int) -> bytes:
        """What stands behind the tensor's bytes, whose CRC-32 that is."""
        if not self.tensors:
            return b""
        entry = Entry(f"{folder_of(self.name)}/data/0".encode(), self.record_start, self.data_bytes, crc32)
        described = descriptor(entry)
        return described + zip_directory((*self.entries, entry), self.tail_start + len(described))


def fragment(
    name: str, tensor: TensorPlan, around: Mapping[str, object] | None, *, sharing: Sharing | None = None
) -> FragmentPlan:
    """The plan of a file that holds a tensor: under the key `param` of a dict with `around`, or alone if that is None.

    A dict is what DeepSpeed reads at all stages, and `cat_dim` in it is along which dimension it divides the tensor
    over tensor-parallel ranks. `sharing`: what the disk can share, None to copy everything.
    """
    stored = Stored("0", tensor.dtype, tensor.shape, tensor.numel)
    content: object = stored if around is None else {**around, "param": stored}
    folder = folder_of(name)
    before, entries = records_of(folder, content)
    record, place = f"{folder}/data/0", None
    if sharing is not None and sharing.block_bytes <= MOST_MODULUS:
        place = fit(tensor, sharing)
    if sharing is not None and place is not None and (sharing.insisted or place.shared_bytes >= LEAST_SHARED_BYTES):
        last = local_header(record, len(before), tensor.nbytes, residue=place.residue, modulus=sharing.block_bytes)
        shared_bytes = place.shared_bytes
    else:
        last, shared_bytes = local_header(record, len(before), tensor.nbytes), 0
    header = before + last
    plan = FragmentPlan(
        name=name,
        header=header,
        tensors=(tensor,),
        starts=(len(header),),
        size_bytes=0,
        entries=tuple(entries),
        record_start=len(before),
        shared_bytes=shared_bytes,
    )
    return replace(plan, size_bytes=plan.tail_start + len(plan.tail(0)))


def plain_file(name: str, content: object, data: Mapping[str, bytes] = MappingProxyType({})) -> bytes:
    """A file of torch with plain values in it, and with small tensors whose bytes are `data`, by their keys."""
    start, entries = records_of(folder_of(name), content, data)
    return start + zip_directory(entries, len(start))


def plain_fragment(name: str, content: object, data: Mapping[str, bytes] = MappingProxyType({})) -> FragmentPlan:
    """The plan of such a file: all of it is header."""
    whole = plain_file(name, content, data)
    return FragmentPlan(
        name=name, header=whole, tensors=(), starts=(), size_bytes=len(whole), entries=(), record_start=len(whole)
    )


def folder_of(name: str) -> str:
    """What the records' names begin with: the file's own name, without its end."""
    own = name.rpartition("/")[2]
    return own.rpartition(".")[0] or own


def records_of(
    folder: str, content: object, tensors: Mapping[str, bytes] = MappingProxyType({})
) -> tuple[bytes, list[Entry]]:
    """The small records, and how the directory lists them."""
    data, entries = b"", []
    records = {"data.pkl": pickled(content), "byteorder": b"little", "version": b"3\n"}
    records |= {f"data/{key}": stored for key, stored in tensors.items()}
    for name, record in records.items():
        entry = Entry(f"{folder}/{name}".encode(), len(data), len(record), zlib.crc32(record))
        data += local_header(f"{folder}/{name}", len(data), len(record)) + record + descriptor(entry)
        entries.append(entry)
    return data, entries


def local_header(name: str, start: int, size_bytes: int, *, residue: int = 0, modulus: int = ALIGNMENT_BYTES) -> bytes:
    """A record's local header, padded so that its data begins at a byte of the file that is `residue` modulo
    `modulus`."""
    encoded = name.encode()
    wide = struct.pack("<2H2Q", 1, 16, size_bytes, size_bytes) if size_bytes >= _MOST else b""
    before = start + LOCAL_HEADER.size + len(encoded) + len(wide) + 4
    padding = (residue - before) % modulus
    extra = wide + b"FB" + struct.pack("<H", padding) + b"Z" * padding
    size = _MOST if wide else 0
    return (
        LOCAL_HEADER.pack(b"PK\3\4", _VERSION, _FLAGS, 0, 0, 0, 0, size, size, len(encoded), len(extra))
        + encoded
        + extra
    )


def descriptor(entry: Entry) -> bytes:
    form = "<4sI2Q" if entry.size_bytes >= _MOST else "<4s3I"
    return struct.pack(form, b"PK\7\10", entry.crc32, entry.size_bytes, entry.size_bytes)


def zip_directory(entries: Sequence[Entry], start: int) -> bytes:
    """The zip directory at byte `start`, with its end in 64 bits as torch writes it."""
    data = b"".join(map(_listed, entries))
    count, size_bytes, end = len(entries), len(data), start + len(data)
    data += END64.pack(b"PK\6\6", END64.size - 12, _VERSION, _VERSION, 0, 0, count, count, size_bytes, start)
    data += END64_LOCATOR.pack(b"PK\6\7", 0, end, 1)
    return data + END.pack(b"PK\5\6", 0, 0, count, count, size_bytes, min(start, _MOST), 0)


def _listed(entry: Entry) -> bytes:
    size = entry.size_bytes
    extra = struct.pack("<2H2Q", 1, 16, size, size) if size >= _MOST else b""
    size = min(size, _MOST)
    fixed = _CENTRAL.pack(
        b"PK\1\2", _VERSION, _VERSION, _FLAGS, 0, 0, 0, entry.crc32, size, size, len(entry.name), len(extra),
        0, 0, 0, 0, entry.header_start,
    )  # fmt: skip
    return fixed + entry.name + extra
