"""A file of the checkpoint that is copied as it is, block by block like any tensor."""

from __future__ import annotations

from dataclasses import dataclass

from ..archive.located import LocatedStorage, contiguous
from ..dtypes import DType
from .layout import FilePlan, TensorPlan
from .pieces import View


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeFilePlan(FilePlan):
    """A copy of a file. Its one tensor is all of its bytes."""

    source: str
    """The path of that file."""


def whole_file(name: str, path: str, size_bytes: int) -> WholeFilePlan:
    """The plan of a copy of the file at `path`."""
    tensor = TensorPlan(
        name=name, dtype=DType.U8, shape=(size_bytes,), recipe=bytes_of(path, size_bytes), is_parameter=False
    )
    return WholeFilePlan(name=name, header=b"", tensors=(tensor,), starts=(0,), size_bytes=size_bytes, source=path)


def bytes_of(path: str, size_bytes: int) -> View:
    """The bytes of a file, as a tensor of them."""
    storage = LocatedStorage(file=path, key="", start=0, numel=size_bytes, dtype=DType.U8, big_endian=False)
    return View(contiguous(storage, (size_bytes,)))
