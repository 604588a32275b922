"""safetensors files -> which tensors they hold, and where their bytes are.

The layout is 8 bytes of header length, a JSON header, then the tensors' bytes. What the reference reader checks is
checked here (safetensors `safetensors/src/tensor.rs`, `Metadata::validate`): offsets follow one another without gap
or overlap, sizes fit shapes, and the last byte of the last tensor is the last byte of the file.
"""

from __future__ import annotations

import math
import os
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

from ..dtypes import DType
from ..errors import DamagedFile, NotACheckpoint, at, reason
from .json_file import parse_object
from .located import MAX_DIMENSIONS, MAX_NUMEL, LocatedStorage, contiguous
from .model_files import MAX_HEADER_BYTES
from .places import names_in
from .printable import described
from .regular import opened, read_errors, read_small

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .located import LocatedTensor

INDEX_SUFFIX = ".safetensors.index.json"

_BY_CODE = {dtype.code: dtype for dtype in DType}


@dataclass(frozen=True, slots=True, kw_only=True)
class SafetensorsFile:
    """The header of one file."""

    path: str
    size_bytes: int
    data_start: int
    """The byte of the file at which the first tensor begins."""
    tensors: Mapping[str, LocatedTensor]
    """By name, in the order of their bytes."""
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SafetensorsModel:
    """The weights of a model directory: one file, or the shards an index names."""

    directory: str
    files: Mapping[str, SafetensorsFile]
    """By name inside the directory."""
    tensors: Mapping[str, LocatedTensor]
    index: str | None
    """Name of the index, None for a single file."""


def read_file(path: str) -> SafetensorsFile:
    """The header of one file. Raises DamagedFile."""
    with at(os.path.basename(path)):
        with read_errors(), closing(opened(path)) as file:
            size_bytes = file.size_bytes
            prefix = file.pread(min(8, size_bytes), 0)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or length > min(MAX_HEADER_BYTES, size_bytes - 8):
                raise DamagedFile(
                    "the file is not a safetensors file, or it is cut off",
                    expected=f"a header of at most {max(min(MAX_HEADER_BYTES, size_bytes - 8), 0)} bytes",
                    found=f"{length} in {size_bytes} bytes",
                )
            text = file.pread(length, 8)
        header = parse_object(text, "the header")
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict):
            raise DamagedFile("the header's '__metadata__' is not a mapping")
        tensors = _tensors(path, header, 8 + length, size_bytes)
    return SafetensorsFile(
        path=path,
        size_bytes=size_bytes,
        data_start=8 + length,
        tensors=tensors,
        metadata={str(key): str(value) for key, value in metadata.items()},
    )


def read_model(directory: str) -> SafetensorsModel:
    """The weights in `directory`: the shards of an index; without an index, all safetensors files.

    Raises NotACheckpoint if there are none, DamagedFile if index and shards disagree.
    """
    with at(directory):
        entries = entries_of(directory)
        indices = [entry for entry in entries if entry.endswith(INDEX_SUFFIX)]
        if len(indices) > 1:
            raise DamagedFile("there are several indices", expected="one", found=", ".join(indices))
        weight_map = read_weight_map(os.path.join(directory, indices[0])) if indices else None
        names = (
            sorted(set(weight_map.values()))
            if weight_map is not None
            else [entry for entry in entries if entry.endswith(".safetensors")]
        )
        if not names:
            raise NotACheckpoint("there are no safetensors weights in the directory")
        files = {name: read_file(os.path.join(directory, name)) for name in names}
        tensors: dict[str, LocatedTensor] = {}
        for file_name, file in files.items():
            for name, tensor in file.tensors.items():
                if name in tensors:
                    with at(file_name):
                        raise DamagedFile(
                            f"the tensor {described(name)} is also in {os.path.basename(tensors[name].file)}"
                        )
                tensors[name] = tensor
        if weight_map is not None:
            _index_fits(weight_map, files)
    return SafetensorsModel(directory=directory, files=files, tensors=tensors, index=indices[0] if indices else None)


def entries_of(directory: str) -> list[str]:
    """The entries of a model's directory, sorted. Raises NotACheckpoint if it cannot be listed."""
    try:
        return sorted(names_in(directory))
    except OSError as error:
        raise NotACheckpoint(f"the model's directory cannot be read: {reason(error)}") from None


def read_weight_map(path: str) -> dict[str, str]:
    """Which file holds which tensor, according to the index of a model in shards. Raises DamagedFile."""
    with at(os.path.basename(path)):
        found = parse_object(read_small(path, MAX_HEADER_BYTES), "the index").get("weight_map")
        if not isinstance(found, dict) or not all(isinstance(file, str) for file in found.values()):
            raise DamagedFile("the index has no usable 'weight_map'", expected="a mapping of names to files")
        for file in set(found.values()):
            # An index is a list of names in its own folder: anything else would read files it has no business with.
            if "/" in file or "\\" in file or file in ("", ".", "..") or not file.isprintable():
                raise DamagedFile("the index names a file outside of its folder", found=described(file))
        return found


def _index_fits(weight_map: Mapping[str, str], files: Mapping[str, SafetensorsFile]) -> None:
    for name, file in weight_map.items():
        if name not in files[file].tensors:
            with at(file):
                raise DamagedFile(
                    f"the index says the tensor {described(name)} is in this file, which has no such tensor"
                )
    for file_name, contents in files.items():
        extra = next((name for name in contents.tensors if name not in weight_map), None)
        if extra is not None:
            with at(file_name):
                raise DamagedFile(f"the file holds the tensor {described(extra)}, which the index does not name")


def _tensors(path: str, header: Mapping[str, Any], data_start: int, size_bytes: int) -> dict[str, LocatedTensor]:
    found: dict[str, tuple[int, int, LocatedTensor]] = {}
    for name, entry in header.items():
        with at(repr(name)[1:81]):
            found[name] = _tensor(path, name, entry, data_start)
    here = 0
    ordered = sorted(found.items(), key=lambda item: item[1][:2])
    for name, (start, stop, _) in ordered:
        if start != here:
            raise DamagedFile(
                "the tensors leave a gap or overlap", expected=f"{described(name)} at byte {here}", found=start
            )
        here = stop
    if data_start + here != size_bytes:
        raise DamagedFile(
            "the file's size does not fit its header", expected=f"{data_start + here} bytes", found=size_bytes
        )
    return {name: tensor for name, (_, _, tensor) in ordered}


def _tensor(path: str, name: str, entry: object, data_start: int) -> tuple[int, int, LocatedTensor]:
    if not isinstance(entry, dict) or not name.isprintable():
        raise DamagedFile("the header's entry is not a tensor")
    dtype, shape, offsets = _BY_CODE.get(str(entry.get("dtype"))), entry.get("shape"), entry.get("data_offsets")
    if dtype is None:
        raise DamagedFile("the tensor's dtype is not known", found=described(entry.get("dtype")))
    if not _sizes(shape, MAX_DIMENSIONS) or not _sizes(offsets, 2) or len(offsets) != 2:
        raise DamagedFile(
            "the tensor's shape or offsets are impossible",
            found=f"shape {described(shape)}, bytes {described(offsets)}",
        )
    numel = math.prod(shape)
    start, stop = offsets
    if stop - start != numel * dtype.itemsize:
        raise DamagedFile(
            f"the tensor's bytes do not fit its shape {tuple(shape)}",
            expected=f"{numel * dtype.itemsize} bytes",
            found=stop - start,
        )
    storage = LocatedStorage(file=path, key=name, start=data_start + start, numel=numel, dtype=dtype, big_endian=False)
    return start, stop, contiguous(storage, tuple(shape))


def _sizes(value: object, most: int) -> TypeGuard[list[int]]:
    return isinstance(value, list) and len(value) <= most and all(type(n) is int and 0 <= n <= MAX_NUMEL for n in value)
