"""Stage 3: every parameter is cut by itself, into one stripe of ceil(numel / ranks) elements a rank.

    param_shapes[g]     embed.weight [3, 5]      norm.bias [2]       3 ranks
    numel                       15                     2
    stripe                       5                     1             = ceil(numel / ranks)

    partition of rank 0   |e0  e1  e2  e3  e4 |n0|
                 rank 1   |e5  e6  e7  e8  e9 |n1|
                 rank 2   |e10 e11 e12 e13 e14|- |
                           0                   5  6

    embed.weight = elements 0-4 of rank 0, of rank 1, of rank 2
    norm.bias    = element 5 of rank 0, of rank 1

A parameter begins at the same element of every rank's partition. `-` fills the last stripes up; where a
parameter is smaller than the number of ranks, whole stripes are filling. The walk over the shapes must end
exactly at the partition's length (mirrors `deepspeed/runtime/zero/partition_parameters.py`:
`_partition_numel`, `_partition_param`, and `stage3.py`: `_create_fp32_partitions`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..archive.names import file_name
from ..catalog.facts import stripe_numel
from ..errors import Disagreement, at
from .pieces import Copied, Copy, refuse_mixed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..archive.located import LocatedTensor
    from ..catalog.facts import FlatGroup, FrozenStripes
    from ..dtypes import DType


@dataclass(frozen=True, slots=True)
class Stripes(Copied):
    """A parameter striped over the partitions of a flat group; `first` is its element in every partition."""

    partitions: tuple[LocatedTensor, ...]
    first: int
    numel: int

    @property
    def dtype(self) -> DType:
        return self.partitions[0].dtype

    @property
    def is_plain(self) -> bool:
        return not self.partitions[0].storage.big_endian

    def copies(self, start: int = 0, stop: int | None = None) -> Iterator[Copy]:
        """One copy for each rank whose stripe the interval touches."""
        stop = self.numel if stop is None else stop
        for rank, first, last, here in _stripes(stripe_numel(self.numel, len(self.partitions)), start, stop):
            partition = self.partitions[rank]
            yield Copy(
                file=partition.file,
                file_start=partition.start + (self.first + first) * partition.dtype.itemsize,
                dtype=partition.dtype,
                big_endian=partition.storage.big_endian,
                start=here,
                run_numel=last - first,
            )


@dataclass(frozen=True, slots=True)
class FragmentStripes(Copied):
    """A frozen parameter: each rank's model file holds its stripe as a tensor of its own."""

    facts: FrozenStripes
    numel: int

    @property
    def dtype(self) -> DType:
        return self.facts.dtype

    @property
    def is_plain(self) -> bool:
        return not self.facts.big_endian

    def copies(self, start: int = 0, stop: int | None = None) -> Iterator[Copy]:
        """One copy for each rank whose stripe the interval touches."""
        facts = self.facts
        stop = self.numel if stop is None else stop
        for rank, first, last, here in _stripes(stripe_numel(self.numel, len(facts.files)), start, stop):
            yield Copy(
                file=facts.files[rank],
                file_start=facts.starts[rank] + first * facts.dtype.itemsize,
                dtype=facts.dtype,
                big_endian=facts.big_endian,
                start=here,
                run_numel=last - first,
            )


def _stripes(width: int, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """(rank, first and last element within its stripe, element of the tensor) for elements `[start, stop)`."""
    here = start
    while here < stop:
        rank, first = divmod(here, width)
        last = min(width, stop - rank * width)
        yield rank, first, last, here
        here = rank * width + last


def place(group: FlatGroup) -> dict[str, Stripes]:
    """Where each member of a striped group lies.

    Raises Disagreement if the shapes do not add up to what each rank holds, DamagedFile if dtypes differ.
    """
    ranks = len(group.partitions)
    with at(f"group {group.index}"):
        refuse_mixed(group.partitions)
        stripes, here = {}, 0
        for member in group.members:
            stripes[member.name] = Stripes(group.partitions, here, member.numel)
            here += stripe_numel(member.numel, ranks)
        for rank, partition in enumerate(group.partitions):
            if partition.numel != here:
                with at(f"rank {rank}"), at(file_name(partition.file)):
                    raise Disagreement(
                        "the shapes in 'param_shapes' do not add up",
                        expected=f"{here} elements in the rank's partition",
                        found=partition.numel,
                    )
        return stripes
