"""Model and optimizer files -> flat groups: which parameters each holds, and which ranks share it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..archive.names import FileKind, file_name
from ..errors import DamagedFile, Disagreement, UnsupportedLayout, at
from .experts import global_names, is_native, of_rank
from .facts import Cut, FlatGroup, Member, stripe_numel

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from ..archive.located import LocatedTensor
    from ..archive.raw import CheckpointFiles
    from .facts import Shape
    from .model_file import ModelFile
    from .optimizer_file import OptimizerFile
    from .state import GroupState


@dataclass(frozen=True, slots=True)
class Sharers:
    """A set of ranks that share a flat group."""

    ranks: tuple[int, ...]
    ep_rank: int | None
    """Set where the sets are the expert-parallel ranks; else every set has a replica of the group."""
    holder: str


def flat_groups(
    model: ModelFile,
    optimizers: Sequence[OptimizerFile],
    world_size: int,
    *,
    shapes: Mapping[str, Shape],
    stacked: Collection[str],
    holder: str | None,
) -> list[tuple[int, FlatGroup]]:
    """The flat groups of one model-parallel rank, each with the index of its part of the model.

    `shapes`: of the module's copies, for files that do not have `param_shapes`. `stacked`: names of tensors that
    stack experts, whose parts are the expert-parallel ranks. `holder`: the pipeline stage, if there are several.
    """
    by_rank = {optimizer.rank: optimizer for optimizer in optimizers}
    members_of = _members(model, optimizers, shapes)
    found: list[tuple[int, FlatGroup]] = []
    for index, members in enumerate(members_of):
        with at(file_name(optimizers[0].file)), at(f"group {index}"):
            for sharers in _sharers(optimizers, index, members, world_size, stacked):
                # With files missing (which `inspect` tolerates) the group is shown with the partitions there are.
                sharing = [by_rank[rank] for rank in sharers.ranks if rank in by_rank]
                names = global_names([member.name for member in members], sharers.ep_rank or 0)
                group = FlatGroup(
                    index=index,
                    cut=optimizers[0].cut,
                    members=tuple(replace(member, name=names.get(member.name, member.name)) for member in members),
                    partitions=_partitions(sharing, index),
                    states=_states(sharing, index),
                    step=next((state.step for state in _states_of(sharing, index) if state.step is not None), None),
                    holder=f"{holder}, {sharers.holder}" if holder else sharers.holder,
                )
                is_stacked = any(member.name in stacked for member in members)
                found.append((sharers.ep_rank or 0 if is_stacked else 0, group))
    return found


def saving_ranks(files: CheckpointFiles, optimizers: Sequence[OptimizerFile], world_size: int) -> int:
    """How many ranks have files: all, or with MiCS those of the first shard group, which holds the whole model
    (`deepspeed/runtime/zero/mics.py`; removed in 0.19)."""
    counts = {
        count
        for optimizer in optimizers
        if optimizer.cut is Cut.STRIPED and optimizer.partition_ranks is None
        for count in optimizer.partition_counts or ()
    }
    count = counts.pop() if len(counts) == 1 else world_size
    others = any(name.dp_rank >= count for name in files.of(FileKind.OPTIMIZER))
    return count if count < world_size and not world_size % count and not others else world_size


def _partitions(optimizers: Sequence[OptimizerFile], index: int) -> tuple[LocatedTensor, ...]:
    """The group's partitions as they lie in the flat buffer: rank by rank, or interval by interval."""
    if optimizers and optimizers[0].intervals is not None:
        by_rank = [optimizer.intervals[index] for optimizer in optimizers if optimizer.intervals is not None]
        if len(by_rank) != len(optimizers) or len({len(intervals) for intervals in by_rank}) != 1:
            raise Disagreement("the ranks differ in the number of intervals of the flat group")
        return tuple(interval for intervals in zip(*by_rank, strict=True) for interval in intervals)
    return tuple(optimizer.partitions[index] for optimizer in optimizers)


def _states_of(optimizers: Sequence[OptimizerFile], index: int) -> list[GroupState]:
    return [optimizer.states[index] for optimizer in optimizers if index < len(optimizer.states)]


def _states(optimizers: Sequence[OptimizerFile], index: int) -> dict[str, tuple[LocatedTensor, ...]]:
    """By name: what the ranks that have it keep of the group's elements."""
    states = _states_of(optimizers, index)
    names = dict.fromkeys(name for state in states for name in state.values)
    return {name: tuple(state.values[name] for state in states if name in state.values) for name in names}


def _sharers(
    optimizers: Sequence[OptimizerFile],
    index: int,
    members: Sequence[Member],
    world_size: int,
    stacked: Collection[str],
) -> list[Sharers]:
    """The sets of ranks that share group `index`: all ranks, those of each expert rank, or shard groups (MiCS)."""
    first = optimizers[0]
    count = first.partition_counts[index] if first.partition_counts else world_size
    names = [member.name for member in members]
    experts = sum(is_native(name) or name in stacked for name in names)
    if experts not in (0, len(names)):
        raise UnsupportedLayout("the flat group holds experts and other parameters together")
    if first.partition_ranks is not None:
        sets = sorted({o.partition_ranks[index] for o in optimizers if o.partition_ranks is not None})
        if len(sets) == 1 and len(sets[0]) == world_size:
            return [Sharers(sets[0], None, "all ranks")]
        return [
            Sharers(ranks, e if experts else None, f"{'expert rank' if experts else 'shard group'} {e}")
            for e, ranks in enumerate(sets)
        ]
    if count == world_size:
        return [Sharers(tuple(range(world_size)), None, "all ranks")]
    if world_size % count:
        raise Disagreement(f"the flat group is cut over {count} ranks, which do not divide {world_size}")
    sets_count = world_size // count
    if experts:
        return [
            Sharers(tuple(range(e, world_size, sets_count)), e, f"expert rank {e} of {sets_count}")
            for e in range(sets_count)
        ]
    if first.cut is Cut.STRIPED:  # MiCS: neighbours share a copy of the model
        return [
            Sharers(tuple(range(s * count, (s + 1) * count)), None, f"shard group {s} of {sets_count}")
            for s in range(sets_count)
        ]
    raise UnsupportedLayout(
        f"the flat group is cut over {count} ranks of {world_size}, and its parameters are not known to be experts"
    )


def _members(
    model: ModelFile, optimizers: Sequence[OptimizerFile], shapes: Mapping[str, Shape]
) -> list[tuple[Member, ...]]:
    first = optimizers[0]
    count = len(first.partitions)
    listed: Sequence[Mapping[str, Shape]] | None = model.param_shapes
    listed = first.param_shapes if listed is None else listed
    if listed is None:
        if first.slices is None:
            raise UnsupportedLayout("neither 'param_shapes' nor 'param_slice_mappings' says what the flat groups hold")
        return [
            _experts_in_order(optimizers, index, shapes) or _from_slices(optimizers, index, shapes)
            for index in range(count)
        ]
    if len(listed) == 1 and count > 1:
        listed = _split(listed[0], [sum(p.numel for p in _partitions(optimizers, g)) for g in range(count)], first.cut,
                        len(optimizers))  # fmt: skip
    if len(listed) != count:
        with at(file_name(first.file)):
            raise Disagreement(
                "the files do not describe the same model",
                expected=f"{len(listed)} flat groups as in 'param_shapes' of {file_name(model.file)}",
                found=count,
            )
    found, seen = [], set[str]()
    for index, group in enumerate(listed):
        with at(file_name(model.file)), at(f"group {index}"):
            twice = seen.intersection(group)
            if twice:
                raise DamagedFile(f"the parameter {min(twice)!r} is in two groups")
            seen.update(group)
            found.append(_with_paddings(group, first.alignment_paddings, index))
    return found


def _with_paddings(
    shapes: Mapping[str, Shape], paddings: tuple[tuple[int, ...], ...] | None, index: int
) -> tuple[Member, ...]:
    padding = paddings[index] if paddings is not None and index < len(paddings) else (0,) * len(shapes)
    if len(padding) != len(shapes):
        raise Disagreement(
            "'param_alignment_paddings' does not fit 'param_shapes'",
            expected=f"{len(shapes)} entries",
            found=len(padding),
        )
    return tuple(Member(name, shape, pad) for (name, shape), pad in zip(shapes.items(), padding, strict=True))


def _experts_in_order(
    optimizers: Sequence[OptimizerFile], index: int, shapes: Mapping[str, Shape]
) -> tuple[Member, ...] | None:
    """The members of a group of experts without `param_shapes` (before DeepSpeed 0.16), None for other groups.

    The addresses of experts are computed for another number of ranks and are of no use. So the experts of rank 0 are
    taken in the order of their files; their copies bear witness.
    """
    of_groups = [list(group) for group in optimizers[0].slices or ()]
    is_expert = [bool(names) and all(is_native(name) for name in names) for names in of_groups]
    if not is_expert[index]:
        return None
    if sum(is_expert) > 1:
        raise UnsupportedLayout("several groups hold experts, and 'param_shapes' does not say which")
    count = (optimizers[0].partition_counts or (len(optimizers),) * (index + 1))[index]
    names = of_rank(shapes, 0, max(len(optimizers) // count, 1))
    return tuple(Member(name, shape) for name, shape in shapes.items() if name in names)


def _from_slices(optimizers: Sequence[OptimizerFile], index: int, shapes: Mapping[str, Shape]) -> tuple[Member, ...]:
    """The members by the addresses that each rank has of its own partition.

    BF16_Optimizer saves no shapes, and knows no round robin, so its addresses can be trusted. Nor do mixtures of
    experts before DeepSpeed 0.16, where the copies in the module bear witness. They must tile each partition from
    its beginning (mirrors `BF16_Optimizer._create_param_mapping`).
    """
    numels: dict[str, int] = {}
    last = None
    for optimizer in optimizers:
        slices, here = (optimizer.slices or ())[index] if optimizer.slices else {}, 0
        with at(file_name(optimizer.file)):
            for name, (start, numel) in sorted(slices.items(), key=lambda item: item[1]):
                if start != here or (name in numels and name != last):
                    raise Disagreement("'param_slice_mappings' does not tile the partition", found=f"{name} at {start}")
                numels[name] = numels.get(name, 0) + numel
                here, last = start + numel, name
    members = []
    for name, numel in numels.items():
        shape = shapes.get(name, (numel,))
        expected = math.prod(shape)
        if expected != numel:
            raise Disagreement(
                f"{name} has {numel} elements in the flat group", expected=f"{expected}, its shape is {shape}"
            )
        members.append(Member(name, shape))
    return tuple(members)


def _split(shapes: Mapping[str, Shape], held: list[int], cut: Cut, ranks: int) -> list[dict[str, Shape]]:
    """One mapping for all groups (DeepSpeed before 0.5.4), distinguished by how many elements each group holds."""
    groups: list[dict[str, Shape]] = [{}]
    here = 0
    for name, shape in shapes.items():
        numel = math.prod(shape)
        numel = stripe_numel(numel, ranks) * ranks if cut is Cut.STRIPED else numel
        if here and here + numel > held[len(groups) - 1] and len(groups) < len(held):
            groups.append({})
            here = 0
        groups[-1][name] = shape
        here += numel
    return groups
