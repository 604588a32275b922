"""Swap files on NVMe (`offload_optimizer`, stage 3) -> the flat groups that optimizer files lack.

Where a sub-group is large enough to be swapped, the file holds empty tensors, and the master lies in
`offloaded_tensors/rank<N>/<first>_<last>.tensor.swp`: raw fp32 elements, padded at the end. Moments lie beside it, with
their names in front: `exp_avg-<first>_<last>.tensor.swp`. `first` and `last` are the
`ds_id` of the sub-group's first and last parameter, their places among the model's parameters (mirrors
`_create_fp32_partitions` in `deepspeed/runtime/zero/stage3.py` and `OptimizerSwapper` in
`deepspeed/runtime/swap_tensor/optimizer_utils.py`).

Under `zero.Init` places are given in the order of construction, which nothing records. So a swap file is only taken
if the module's order leads to the name of a file that is there and has the right size, on every rank; else the
checkpoint is refused.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from ..archive.located import LocatedStorage, contiguous
from ..archive.names import file_name
from ..dtypes import DType
from ..errors import UnsupportedLayout, at
from .facts import Cut, stripe_numel

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..archive.located import LocatedTensor
    from ..archive.raw import SwapFile
    from .facts import Shape
    from .model_file import ModelFile
    from .optimizer_file import OptimizerFile

MAX_PADDING_BYTES = 1 << 20
"""A swap file is padded to a multiple of 1,024 bytes for each of its threads, and there are only a few."""


def swapped_in(
    optimizers: Sequence[OptimizerFile],
    model: ModelFile,
    swaps: Sequence[SwapFile],
    world_size: int,
    *,
    is_split: bool = False,
) -> list[OptimizerFile]:
    """The optimizer files, with what was swapped out in the places of empty flat groups: masters, and those states of
    which there is a file.

    `is_split`: the model is cut over model-parallel ranks. Folders are named by global rank, and no file says which
    rank has which. Raises UnsupportedLayout if a swapped group's file is not certain.
    """
    if is_split:
        if swaps:
            raise UnsupportedLayout(
                "flat groups were swapped out to NVMe, and the model is split over model-parallel ranks: which rank a "
                "folder of 'offloaded_tensors' belongs to is not recorded"
            )
        return list(optimizers)
    shapes = model.param_shapes or ()
    files = {(swap.state, swap.rank, swap.first, swap.last): swap for swap in swaps}
    places = {name: place for place, name in enumerate(_parameters(model, shapes))}
    numels = [sum(stripe_numel(math.prod(shape), world_size) for shape in group.values()) for group in shapes]
    groups = list(zip(shapes, numels, strict=True))
    return [_swapped_in(optimizer, groups, files, places) for optimizer in optimizers]


def _swapped_in(
    optimizer: OptimizerFile,
    groups: Sequence[tuple[Mapping[str, Shape], int]],
    files: Mapping[tuple[str | None, int, int, int], SwapFile],
    places: Mapping[str, int],
) -> OptimizerFile:
    """`groups`: the shapes of each, and how many elements of it a rank holds."""
    if optimizer.cut is not Cut.STRIPED or len(groups) != len(optimizer.partitions):
        return optimizer
    partitions, states = list(optimizer.partitions), list(optimizer.states)
    for index, ((group, numel), partition) in enumerate(zip(groups, optimizer.partitions, strict=True)):
        if partition.numel or not numel:
            continue
        with at(file_name(optimizer.file)), at(f"group {index}"):
            names = list(group)
            place = (optimizer.rank, places.get(names[0], -1), places.get(names[-1], -1))
            swap = files.get((None, *place))
            if swap is None or not _holds(swap, numel):
                raise UnsupportedLayout(
                    "the flat group was swapped out to NVMe, and nothing says which swap file holds it",
                    expected=(
                        f"{places.get(names[0])}_{places.get(names[-1])}.tensor.swp of {4 * numel} bytes in the "
                        "rank's folder of 'offloaded_tensors'"
                    ),
                    found=f"{'nothing' if swap is None else f'{swap.size_bytes} bytes'}",
                )
            partitions[index] = _elements(swap, numel)
            state = states[index]
            found = {name: files.get((name, *place)) for name, value in state.values.items() if value.numel < numel}
            there = {
                name: _elements(own, numel) for name, own in found.items() if own is not None and _holds(own, numel)
            }
            states[index] = replace(state, values={**state.values, **there})
    return replace(optimizer, partitions=tuple(partitions), states=tuple(states))


def _holds(swap: SwapFile, numel: int) -> bool:
    return 0 <= swap.size_bytes - 4 * numel < MAX_PADDING_BYTES


def _elements(swap: SwapFile, numel: int) -> LocatedTensor:
    """The first elements of a swap file; DeepSpeed swaps in the dtype of the masters."""
    storage = LocatedStorage(
        file=swap.path, key=f"{swap.first}_{swap.last}", start=0, numel=numel, dtype=DType.F32, big_endian=False
    )
    return contiguous(storage, (numel,))


def _parameters(model: ModelFile, shapes: Sequence[Mapping[str, Shape]]) -> list[str]:
    """The model's parameters in the order of its state dict: neither buffers nor second names."""
    buffers = set(model.buffer_names or ())
    known = {name for group in shapes for name in group} | set(model.frozen_shapes or ())
    return [name for name in model.module if name in known and name not in buffers]
