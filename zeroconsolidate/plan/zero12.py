"""Stages 1 and 2: a flat group is one buffer of parameters laid end to end, cut into one partition a rank.

    param_shapes[g]        embed.weight [3, 4]   norm.bias [3]   head.weight [2, 3]
    numel                          12                 3                 6
    padding behind it               0                 1                 0        (param_alignment_paddings)

    flat buffer      |e e e e e e e e|e e e e n n n .|h h h h h h - -|
                     |               |               |               |
    partition of     |    rank 0     |    rank 1     |    rank 2     |           8 elements a rank
                      0               8               16

    embed.weight = elements  0-11 = all of rank 0, then elements 0-3 of rank 1
    norm.bias    = elements 12-14 = elements 4-6 of rank 1
    head.weight  = elements 16-21 = elements 0-5 of rank 2

`.` is alignment padding behind a parameter, `-` the tail that makes the buffer divisible. DeepSpeed strips the
tail from the fp32 partitions it saves, BF16_Optimizer does not: only names and shapes bound the walk.
The order is that of `param_shapes`, which is the order of flattening, `round_robin_gradients` included;
`param_slice_mappings` has the order *before* the round robin and cannot be trusted
(mirrors `deepspeed/runtime/zero/stage_1_and_2.py`: `flatten_dense_tensors_aligned`, `get_data_parallel_partitions`).
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from ..errors import Disagreement, at
from .pieces import Copied, Copy, refuse_mixed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..archive.located import LocatedTensor
    from ..catalog.facts import FlatGroup
    from ..dtypes import DType


@dataclass(frozen=True, slots=True)
class FlatBuffer:
    """The partitions of a group laid end to end; `bounds[i]` is the first element of partition i."""

    partitions: tuple[LocatedTensor, ...]
    bounds: tuple[int, ...]

    @property
    def numel(self) -> int:
        return self.bounds[-1]


@dataclass(frozen=True, slots=True)
class Window(Copied):
    """Elements `[first, first + numel)` of a flat buffer: one parameter."""

    buffer: FlatBuffer
    first: int
    numel: int

    @property
    def dtype(self) -> DType:
        return self.buffer.partitions[0].dtype

    @property
    def is_plain(self) -> bool:
        return not self.buffer.partitions[0].storage.big_endian

    def copies(self, start: int = 0, stop: int | None = None) -> Iterator[Copy]:
        """One copy for each partition that the window touches."""
        bounds = self.buffer.bounds
        here, end = self.first + start, self.first + (self.numel if stop is None else stop)
        index = bisect_right(bounds, here) - 1
        while here < end:
            partition = self.buffer.partitions[index]
            upto = min(end, bounds[index + 1])
            if upto > here:
                yield Copy(
                    file=partition.file,
                    file_start=partition.start + (here - bounds[index]) * partition.dtype.itemsize,
                    dtype=partition.dtype,
                    big_endian=partition.storage.big_endian,
                    start=here - self.first,
                    run_numel=upto - here,
                )
            here, index = upto, index + 1


def place(group: FlatGroup) -> dict[str, Window]:
    """Where each member of a contiguous group lies.

    Raises Disagreement if the shapes do not add up to what the ranks hold, DamagedFile if dtypes differ.
    """
    with at(f"group {group.index}"):
        refuse_mixed(group.partitions)
        bounds = tuple(accumulate((p.numel for p in group.partitions), initial=0))
        buffer = FlatBuffer(group.partitions, bounds)
        windows, here = {}, 0
        for member in group.members:
            windows[member.name] = Window(buffer, here, member.numel)
            here += member.numel + member.padding_numel
            if here - member.padding_numel > buffer.numel:
                raise Disagreement(
                    (
                        f"the shapes in 'param_shapes' do not add up: {member.name} would end at element "
                        f"{here - member.padding_numel}"
                    ),
                    expected=f"at most {buffer.numel}, the elements of all {len(group.partitions)} ranks together",
                )
        # DeepSpeed aligns the buffer to 2 * ranks elements (`nccl_start_alignment_factor`), nothing longer is a tail.
        tail = buffer.numel - here
        if tail >= 2 * len(group.partitions) and group.members:
            raise Disagreement(
                "the shapes in 'param_shapes' do not add up",
                expected=(
                    f"{buffer.numel} elements as the {len(group.partitions)} ranks hold together (up to "
                    f"{2 * len(group.partitions) - 1} of them padding)"
                ),
                found=here,
            )
        return windows
