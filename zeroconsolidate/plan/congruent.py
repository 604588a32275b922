"""A layout in which an output's bytes can be the checkpoint's own blocks on the disk, instead of copies of them.

A file system shares whole blocks. Bytes of an input file can be shared if they lie at the same place within a block in
the output, and all of a block is taken. Here a block has 8 bytes, and a tensor lies at bytes 12 to 37 of the input:

    input         |........|....aaaa|aaaaaaaa|aaaaaa..|
                  0        8        16       24       32
    output        |hhhhhhhh|hhhhaaaa|aaaaaaaa|aaaaaa

Its residue is 4: it must begin at a byte of the output that is 4 modulo 8. The header `h`, which is JSON, is padded
with spaces up to there. The block in the middle is shared, the bytes around it are written.

A tensor of several extents (one a rank) has a residue for each, and the one of most bytes counts. Between tensors there
must be no gap, so a tensor can stand behind another only if that ends at its residue: which tensors share a file, in
which order, is a matter of :mod:`.walks`. Tensors of which nothing can be shared (they are cast, computed or small)
stand behind the others of a file, wherever there is room.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from .layout import FilePlan, in_order, numbered, split
from .walks import walks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .layout import TensorPlan

LEAST_FILE_BYTES = 64 << 20
"""A file in which less is shared is not worth being a file of its own, unless all that can be shared must be."""
LEAST_SHARE = 0.5
"""Of the output's bytes. If less can be shared, it is laid out as always."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """What is known about the blocks of input files before anything is laid out."""

    block_bytes: int
    """Blocks that the file system shares have this size, or divide it."""
    apart: frozenset[str]
    """Input files that can share nothing with the output: they are on another file system."""
    insisted: bool
    """Whether everything that can be shared must be, however little that is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Congruent:
    """Shards whose bytes lie as the input's do, modulo the block."""

    files: tuple[FilePlan, ...]
    shared_bytes: int
    """How many bytes can be shared."""
    compared_bytes: int
    """Those of them that are shared with a witness: it and the masters are read to compare the two."""


@dataclass(frozen=True, slots=True)
class Fit:
    """Where in a file a tensor must begin, to share blocks."""

    residue: int
    """The byte of the file, modulo the block."""
    shared_bytes: int
    """How many of its bytes can then be shared."""


@dataclass(slots=True)
class _Shard:
    """A file that is being filled."""

    residue: int
    """Of its first tensor."""
    tensors: list[TensorPlan] = field(default_factory=list)
    size_bytes: int = 0
    """Of its tensors."""
    shared_bytes: int = 0

    def add(self, tensor: TensorPlan, shared_bytes: int = 0) -> None:
        self.tensors.append(tensor)
        self.size_bytes += tensor.nbytes
        self.shared_bytes += shared_bytes

    def takes(self, tensor: TensorPlan, most_bytes: int | None) -> bool:
        """Whether there is room for one more, at a multiple of its item size (torch maps no other)."""
        is_aligned = (self.residue + self.size_bytes) % tensor.dtype.itemsize == 0
        return is_aligned and (most_bytes is None or self.size_bytes + tensor.nbytes <= most_bytes)


def congruent(
    tensors: Sequence[TensorPlan], max_shard_bytes: int | None, sharing: Sharing, *, name: str
) -> Congruent | None:
    """Lay tensors out so that as many bytes as possible can be shared; None where that is not worth it. `name`: of the
    file if there is one."""
    fits = {number: found for number, tensor in enumerate(tensors) if (found := fit(tensor, sharing)) is not None}
    least = 1 if sharing.insisted else LEAST_FILE_BYTES
    shards = [
        shard for shard in _walked(tensors, fits, max_shard_bytes, sharing.block_bytes) if shard.shared_bytes >= least
    ]
    shared_bytes = sum(shard.shared_bytes for shard in shards)
    if not shards or not (sharing.insisted or shared_bytes >= LEAST_SHARE * sum(tensor.nbytes for tensor in tensors)):
        return None
    placed = {tensor.name for shard in shards for tensor in shard.tensors}
    # Where its blocks cannot be shared, a witness would be read for nothing.
    others = [replace(tensor, witness=None) for tensor in tensors if tensor.name not in placed]
    left = []
    for tensor in sorted(others, key=lambda tensor: tensor.dtype.file_order):
        shard = next((shard for shard in shards if shard.takes(tensor, max_shard_bytes)), None)
        if shard is None:
            left.append(tensor)
        else:
            shard.add(tensor)
    rest = split(left, max_shard_bytes) if left else []
    names = numbered(name, len(shards) + len(rest))
    files = [
        in_order(file, shard.tensors, residue=shard.residue, modulus=sharing.block_bytes)
        for file, shard in zip(names, shards, strict=False)
    ]
    files += [in_order(file, plan.tensors) for file, plan in zip(names[len(shards) :], rest, strict=True)]
    compared_bytes = sum(
        fits[number].shared_bytes
        for number, tensor in enumerate(tensors)
        if tensor.name in placed and tensor.witness is not None
    )
    return Congruent(files=tuple(files), shared_bytes=shared_bytes, compared_bytes=compared_bytes)


def _walked(
    tensors: Sequence[TensorPlan], fits: Mapping[int, Fit], max_shard_bytes: int | None, block_bytes: int
) -> Iterator[_Shard]:
    """The tensors that have a residue, end to end in as few files as possible."""
    numbers = list(fits)
    steps = [
        (fits[number].residue, (fits[number].residue + tensors[number].nbytes) % block_bytes) for number in numbers
    ]
    for walk in walks(steps):
        filled: list[_Shard] = []
        for number in (numbers[step] for step in walk):
            if not filled or not filled[-1].takes(tensors[number], max_shard_bytes):
                filled.append(_Shard(fits[number].residue))
            filled[-1].add(tensors[number], fits[number].shared_bytes)
        yield from filled


def fit(tensor: TensorPlan, sharing: Sharing) -> Fit | None:
    """The residue at which most bytes of a tensor can be shared; None if none can."""
    block, itemsize = sharing.block_bytes, tensor.dtype.itemsize
    there = tensor.shareable
    if there is None or tensor.nbytes < block:
        return None
    shared: Counter[int] = Counter()
    for copy in there.copies():
        first, last = -(-copy.file_start // block), (copy.file_start + copy.nbytes) // block
        residue = (copy.file_start - copy.start * itemsize) % block
        if last > first and residue % itemsize == 0 and copy.file not in sharing.apart:
            shared[residue] += (last - first) * block
    if not shared:
        return None
    residue = min(shared, key=lambda residue: (-shared[residue], residue))
    return Fit(residue, shared[residue])
