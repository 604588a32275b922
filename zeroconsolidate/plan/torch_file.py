"""A file of torch with many tensors in it, as `torch.save` of a state dict makes one: for `torch.load`.

    pytorch_model/data.pkl     the pickle: names, and whatever else is to be in it
    pytorch_model/byteorder, version
    pytorch_model/data/0       the first tensor's bytes, its checksum
    pytorch_model/data/1       the second's
    …
    (the zip directory, which repeats all checksums)

It is written from its first byte to its last. `fragment.py` says more about the zip around the tensors; `torch.save`
itself would need them all in memory, and of a tensor that is a part of a flat buffer it would write the whole buffer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .fragment import Entry, descriptor, folder_of, local_header, records_of, zip_directory
from .layout import FilePlan, TensorPlan
from .pickled import Stored

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchFilePlan(FilePlan):
    """A file of torch. Its header is all that stands before the data of the first tensor."""

    entries: tuple[Entry, ...]
    """The records whose checksums are known."""
    record_starts: tuple[int, ...]
    """By tensor: where its record begins."""

    def behind(self, index: int, crc32: int) -> bytes:
        """What stands behind the data of a tensor, whose CRC-32 that is, and before the data of the next."""
        here = descriptor(self._entry(index, crc32))
        if index + 1 == len(self.tensors):
            return here
        start = self.record_starts[index + 1]
        return here + local_header(self._record(index + 1), start, self.tensors[index + 1].nbytes)

    def tail(self, checksums: Sequence[int]) -> bytes:
        """The zip directory. `checksums`: of every tensor."""
        own = [self._entry(index, crc32) for index, crc32 in enumerate(checksums)]
        return zip_directory([*self.entries, *own], self.tail_start)

    @property
    def tail_start(self) -> int:
        """Where the zip directory begins."""
        if not self.tensors:
            return len(self.header)
        last = len(self.tensors) - 1
        return self.starts[last] + self.tensors[last].nbytes + len(self.behind(last, 0))

    def _record(self, index: int) -> str:
        return f"{folder_of(self.name)}/data/{index}"

    def _entry(self, index: int, crc32: int) -> Entry:
        return Entry(self._record(index).encode(), self.record_starts[index], self.tensors[index].nbytes, crc32)


def stored(key: int, tensor: TensorPlan) -> Stored:
    """What stands for the tensor with this number in the content of a file. A tied one is one object."""
    return Stored(str(key), tensor.dtype, tensor.shape, tensor.numel)


def torch_file(name: str, content: Mapping[str, object], tensors: Sequence[TensorPlan]) -> TorchFilePlan:
    """The plan of a file that holds `content`, in which a Stored stands for each of the tensors, by its number.

    Raises UnsupportedLayout for content that is not plain values and Stored.
    """
    header, entries = records_of(folder_of(name), content)
    plan = TorchFilePlan(
        name=name, header=header, tensors=(), starts=(), size_bytes=0, entries=tuple(entries), record_starts=()
    )
    here, starts, record_starts = len(header), list[int](), list[int]()
    for index, tensor in enumerate(tensors):
        record_starts.append(here)
        opening = local_header(f"{folder_of(name)}/data/{index}", here, tensor.nbytes)
        if not index:
            header += opening
        starts.append(here + len(opening))
        here = starts[-1] + tensor.nbytes + len(descriptor(Entry(b"", 0, tensor.nbytes, 0)))
    plan = replace(
        plan, header=header, tensors=tuple(tensors), starts=tuple(starts), record_starts=tuple(record_starts)
    )
    return replace(plan, size_bytes=plan.tail_start + len(plan.tail([0] * len(tensors))))
