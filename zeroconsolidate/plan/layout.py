"""Planned tensors -> shards, and their place and header in each safetensors file.

A safetensors file is an 8-byte little-endian header length, a JSON header padded with spaces to a multiple of 8,
and the tensors' bytes. The order of tensors, of keys and the padding follow the reference implementation
(safetensors `safetensors/src/tensor.rs`, `prepare`), so that for equal tensors the files are equal byte for byte.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..archive.model_files import MAX_HEADER_BYTES, WEIGHTS
from ..errors import BadOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..dtypes import DType
    from .pieces import Recipe

METADATA = "__metadata__"
"""The one name in a header that is not a tensor's."""
_LENGTH_BYTES = 8
"""In front of a header stands its length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPlan:
    """A tensor of the output: what it is and how its elements are obtained."""

    name: str
    dtype: DType
    """As written. Where it differs from `recipe.dtype`, elements are cast."""
    shape: tuple[int, ...]
    recipe: Recipe
    is_parameter: bool
    witness: Recipe | None = None
    """One extent of a file that should hold the very bytes that the cast makes: where it does, its blocks can be
    shared. None if there is none, or nothing is to be shared."""

    @property
    def numel(self) -> int:
        return self.recipe.numel

    @property
    def nbytes(self) -> int:
        """Bytes in the output."""
        return self.recipe.numel * self.dtype.itemsize

    @property
    def is_copy(self) -> bool:
        """Whether the output's bytes are input bytes, unchanged."""
        return self.recipe.is_plain and self.dtype is self.recipe.dtype

    @property
    def shareable(self) -> Recipe | None:
        """Whose extents in input files may hold the output's bytes; None if nothing's do."""
        return self.recipe if self.is_copy else self.witness

    @property
    def input_bytes(self) -> int:
        """Bytes of files that are read to make it once, if nothing of them is shared unread."""
        return self.recipe.input_bytes + (0 if self.witness is None else self.witness.input_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePlan:
    """A file of the output: one of safetensors, unless a subclass says otherwise."""

    name: str
    header: bytes
    """The length prefix included."""
    tensors: tuple[TensorPlan, ...]
    """In file order."""
    starts: tuple[int, ...]
    """By tensor: the byte of the file at which it begins."""
    size_bytes: int


HEADER_ALIGNMENT_BYTES = 8
"""The reference implementation's tensors begin at a multiple of it."""


def lay_out(name: str, tensors: Sequence[TensorPlan]) -> FilePlan:
    """Order tensors as safetensors does (largest alignment first, then by name) and build the header."""
    return in_order(name, sorted(tensors, key=lambda tensor: (tensor.dtype.file_order, tensor.name.encode())))


def in_order(
    name: str, tensors: Sequence[TensorPlan], *, residue: int = 0, modulus: int = HEADER_ALIGNMENT_BYTES
) -> FilePlan:
    """Build the header of a file with the tensors in the order given. The header is padded so that the first of them
    begins at a byte of the file that is `residue` modulo `modulus`."""
    entries: dict[str, object] = {METADATA: {"format": "pt"}}
    offsets, here = [], 0
    for tensor in tensors:
        if tensor.name == METADATA:
            raise BadOption(
                f"a tensor cannot be called {METADATA!r} in a safetensors file", remedy="rename it with --rename"
            )
        entries[tensor.name] = {
            "dtype": tensor.dtype.code,
            "shape": list(tensor.shape),
            "data_offsets": [here, here + tensor.nbytes],
        }
        offsets.append(here)
        here += tensor.nbytes
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * ((residue - _LENGTH_BYTES - len(text)) % modulus)
    if len(text) > MAX_HEADER_BYTES:
        raise BadOption(
            f"the header of {name} would be too long for readers",
            expected=f"at most {MAX_HEADER_BYTES} bytes",
            found=len(text),
            remedy="write more shards with --max-shard-size",
        )
    header = len(text).to_bytes(_LENGTH_BYTES, "little") + text
    return FilePlan(
        name=name,
        header=header,
        tensors=tuple(tensors),
        starts=tuple(len(header) + offset for offset in offsets),
        size_bytes=len(header) + here,
    )


def split(tensors: Sequence[TensorPlan], max_shard_bytes: int | None, *, name: str = WEIGHTS) -> list[FilePlan]:
    """Spread tensors over shards. `name`: of the file if there is one; shards are numbered."""
    shards = grouped(tensors, max_shard_bytes)
    return [lay_out(file, shard) for file, shard in zip(numbered(name, len(shards)), shards, strict=True)]


def numbered(name: str, count: int) -> list[str]:
    """The names of so many shards of a file; its own name if it is one.

    >>> numbered("model.safetensors", 2)
    ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors']
    """
    stem, dot, end = name.rpartition(".")
    return [name] if count == 1 else [f"{stem}-{n:05d}-of-{count:05d}{dot}{end}" for n in range(1, count + 1)]


def grouped(tensors: Sequence[TensorPlan], max_shard_bytes: int | None) -> list[list[TensorPlan]]:
    """Tensors in their given order, each shard filled until the next tensor would not fit.

    A tensor larger than a shard gets a shard to itself, which stands *before* the one being filled, as in
    huggingface_hub `serialization/_base.py`, `split_state_dict_into_shards_factory`.
    """
    shards: list[list[TensorPlan]] = []
    filling: list[TensorPlan] = []
    filled_bytes = 0
    empties: list[TensorPlan] | None = None
    for tensor in tensors:
        if not tensor.nbytes and empties is not None:
            # To huggingface_hub, tensors without bytes share one storage, and what shares a storage stays together.
            empties.append(tensor)
            continue
        if max_shard_bytes is not None and tensor.nbytes > max_shard_bytes:
            shards.append([tensor])
            continue
        if max_shard_bytes is not None and filled_bytes + tensor.nbytes > max_shard_bytes:
            shards.append(filling)
            filling, filled_bytes = [], 0
        filling.append(tensor)
        filled_bytes += tensor.nbytes
        if not tensor.nbytes:
            empties = filling
    if filling or not shards:
        shards.append(filling)
    return shards


def index_of(files: Sequence[FilePlan]) -> bytes | None:
    """The index of a model in several shards, as transformers writes it; None for a single file."""
    if len(files) == 1:
        return None
    tensors = [(tensor, file.name) for file in files for tensor in file.tensors]
    # A parameter that is written under several names is counted once: its copies are of one recipe.
    numels = {id(tensor.recipe): tensor.numel for tensor, _ in tensors if tensor.is_parameter}
    index = {
        "metadata": {
            "total_parameters": sum(numels.values()),
            "total_size": sum(tensor.nbytes for tensor, _ in tensors),
        },
        "weight_map": {tensor.name: file for tensor, file in tensors},
    }
    return (json.dumps(index, indent=2, sort_keys=True) + "\n").encode()
