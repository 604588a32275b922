"""The files of other ranks -> what a lost file would say of sizes and names. Values are not among it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from ..archive.located import LOST, LocatedStorage, contiguous
from ..archive.names import file_name
from ..catalog import fields
from ..catalog.facts import Cut, stripe_numel
from ..catalog.optimizer_file import OptimizerFile
from ..catalog.read import shared_with
from ..catalog.state import GroupState
from ..catalog.training import training_of
from ..dtypes import DType
from ..errors import DamagedFile, Disagreement, at

if TYPE_CHECKING:
    from ..archive.located import LocatedTensor
    from ..catalog.facts import Shape
    from ..catalog.model_file import ModelFile


MAX_STAND_INS = 1 << 20
"""A file can claim any number of ranks and groups; with more partitions than this, it is not computed what is
missing."""


def _lost(key: str, numel: int, dtype: DType, *, big_endian: bool) -> LocatedTensor:
    storage = LocatedStorage(file=LOST, key=key, start=0, numel=numel, dtype=dtype, big_endian=big_endian)
    return contiguous(storage, (numel,))


def model_stand_in(first: ModelFile, rank: int, world_size: int) -> ModelFile:
    """A lost model file of stage 3: its stripes of frozen parameters are as long as those of other ranks."""
    fragments = {}
    for name, shape in (first.frozen_shapes or {}).items():
        known = first.frozen_fragments.get(name)
        fragments[name] = _lost(
            f"rank {rank}: {name}",
            stripe_numel(math.prod(shape), world_size),
            known.dtype if known else DType.F32,
            big_endian=known.storage.big_endian if known else False,
        )
    return replace(shared_with(first, first), rank=rank, file=LOST, frozen_fragments=fragments)


def optimizer_stand_ins(
    first: ModelFile, survivors: list[OptimizerFile], world_size: int, *, striped: bool
) -> list[OptimizerFile]:
    """One for every rank, whether lost or not."""
    template = survivors[0] if survivors else _template(first, striped=striped)
    groups = first.param_shapes or template.param_shapes or ()
    looks = [(p.dtype, p.storage.big_endian) for p in template.partitions] or [(DType.F32, False)] * len(groups)
    if len(looks) != len(groups):
        with at(file_name(template.file)):
            raise Disagreement(
                "the files do not describe the same model",
                expected=f"{len(groups)} flat groups as in 'param_shapes' of {first.file.rpartition('/')[2]}",
                found=len(looks),
            )
    if world_size * len(groups) > MAX_STAND_INS:
        raise DamagedFile(
            "too many files are missing to say what they held",
            expected=f"at most {MAX_STAND_INS} partitions",
            found=f"{world_size} ranks of {len(groups)} groups",
        )
    sizes = [
        _partition_numels(index, list(shapes.values()), survivors, template, world_size, striped=striped)
        for index, shapes in enumerate(groups)
    ]
    kept = [_states(index, survivors) for index in range(len(groups))]
    return [
        replace(
            template,
            rank=rank,
            file=LOST,
            states=tuple(
                GroupState(
                    values={
                        name: _lost(
                            f"rank {rank}: {name} of group {index}", sizes[index][rank], dtype, big_endian=order
                        )
                        for name, (dtype, order) in names.items()
                    },
                    step=None,
                )
                for index, names in enumerate(kept)
            ),
            partitions=tuple(
                _lost(f"rank {rank}: group {index}", sizes[index][rank], dtype, big_endian=big_endian)
                for index, (dtype, big_endian) in enumerate(looks)
            ),
        )
        for rank in range(world_size)
    ]


def _states(index: int, survivors: list[OptimizerFile]) -> dict[str, tuple[DType, bool]]:
    """What the optimizer keeps of a group's elements: name -> dtype, and whether it is big-endian."""
    return {
        name: (values.dtype, values.storage.big_endian)
        for survivor in survivors
        if index < len(survivor.states)
        for name, values in survivor.states[index].values.items()
    }


def _template(first: ModelFile, *, striped: bool) -> OptimizerFile:
    """What an optimizer file would say, when none is left: masters are fp32, the layout is the model file's."""
    return OptimizerFile(
        rank=0,
        mp_rank=0,
        file=LOST,
        wrapper="unknown",
        cut=Cut.STRIPED if striped else Cut.CONTIGUOUS,
        stage=fields.stage_of(first.ds_config),
        partitions=(),
        partition_counts=None,
        alignment_paddings=None,
        intervals=None,
        partition_ranks=None,
        slices=None,
        param_shapes=None,
        expert_groups=None,
        steps=(),
        state_names=(),
        states=(),
        unplaced=(),
        param_groups=(),
        training=training_of({}, (), {}, {}),
        ds_version=first.ds_version,
        ds_config={},
    )


def _partition_numels(
    index: int,
    shapes: list[Shape],
    survivors: list[OptimizerFile],
    template: OptimizerFile,
    world_size: int,
    *,
    striped: bool,
) -> list[int]:
    """How many elements of a flat group each rank held.

    Stage 3: all the same. Stages 1 and 2: the buffer is filled up to a multiple of twice the ranks and cut evenly,
    but the padding at its end may have been taken off the last partitions when they were saved
    (`get_data_parallel_partitions`, `_get_groups_without_padding` in `deepspeed/runtime/zero/stage_1_and_2.py`).
    """
    if striped:
        there = [o.partitions[index].numel for o in survivors]
        whole = there[0] if there else sum(stripe_numel(math.prod(shape), world_size) for shape in shapes)
        return [whole] * world_size
    paddings = template.alignment_paddings
    used = sum(map(math.prod, shapes)) + (sum(paddings[index]) if paddings and index < len(paddings) else 0)
    # A survivor that does not end the buffer is as long as all; else the rule above says how long that is.
    whole = max((o.partitions[index].numel for o in survivors), default=0)
    if not any(o.rank + 1 < world_size and o.partitions[index].numel for o in survivors) or whole * world_size < used:
        whole = -(-used // (2 * world_size)) * 2
    return [max(min(whole, used - rank * whole), 0) for rank in range(world_size)]
