"""A `*_optim_states.pt` -> typed facts about master weights.

Dialects are distinguished by the key of the flat groups, so that a file without `zero_stage` is read as well:

* `single_partition_of_fp32_groups`: stages 1 and 2 (mirrors `DeepSpeedZeroOptimizer._rigid_state_dict` in
  `deepspeed/runtime/zero/stage_1_and_2.py`), and `BF16_Optimizer` (`deepspeed/runtime/bf16_optimizer.py`), which
  does not say `zero_stage`;
* `local_sub_partitions_of_fp32_groups`: stage 1 before DeepSpeed 0.5.4 (`stage1.py`), which communicates a group in
  intervals and cuts each of them over the ranks;
* `fp32_flat_groups`: stage 3 (mirrors `DeepSpeedZeroOptimizer_Stage3._rigid_state_dict` in
  `deepspeed/runtime/zero/stage3.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..archive.inert import Inert
from ..archive.printable import described
from ..errors import DamagedFile, UnsupportedLayout, at
from . import fields
from .facts import Cut
from .keys import OPTIMIZER_FILE_KEYS, STATE_KEYS, check_keys
from .state import group_states, settings, split_state, state_names_of, steps_of, unplaced
from .training import training_of

if TYPE_CHECKING:
    from ..archive.located import LocatedTensor
    from ..archive.raw import RawFile
    from .facts import Shape
    from .state import GroupState
    from .training import Training


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one kind of optimizer names what all of them save."""

    cut: Cut
    base: str
    """Key of the wrapped optimizer's own state dict."""
    wrapper: str
    wrapper_without_stage: str


DIALECTS = {
    "single_partition_of_fp32_groups": Dialect(
        Cut.CONTIGUOUS, "base_optimizer_state", "DeepSpeedZeroOptimizer", "BF16_Optimizer"
    ),
    "local_sub_partitions_of_fp32_groups": Dialect(
        Cut.CONTIGUOUS,
        "base_optimizer_state",
        "FP16_DeepSpeedZeroOptimizer_Stage1",
        "FP16_DeepSpeedZeroOptimizer_Stage1",
    ),
    "fp32_flat_groups": Dialect(
        Cut.STRIPED, "optimizer_state_dict", "DeepSpeedZeroOptimizer_Stage3", "DeepSpeedZeroOptimizer_Stage3"
    ),
}
"""By the key of the flat groups."""

Slices = Mapping[str, tuple[int, int]]
"""Parameter -> (first element, number of elements) in a rank's partition of a group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerFile:
    """One rank's optimizer states, as far as they are needed to find and trust its master weights."""

    rank: int
    """Data-parallel."""
    mp_rank: int
    file: str
    cut: Cut
    wrapper: str
    """DeepSpeed's class, by what it saves."""
    stage: int | None
    partitions: tuple[LocatedTensor, ...]
    """By flat group."""
    intervals: tuple[tuple[LocatedTensor, ...], ...] | None
    """By flat group, for the first stage 1: the group is cut into intervals, each interval over the ranks. `partitions`
    then has the first."""
    partition_counts: tuple[int, ...] | None
    """By flat group: over how many ranks it is cut. None where the file does not say."""
    partition_ranks: tuple[tuple[int, ...], ...] | None
    """By flat group: those ranks, where the file names them (AutoEP at stage 3)."""
    alignment_paddings: tuple[tuple[int, ...], ...] | None
    """By flat group, by member: elements of padding behind it (DeepSpeed > 0.19.6)."""
    slices: tuple[Slices, ...] | None
    """By flat group: what touches this rank's partition, in `param_slice_mappings`' order: that before a round robin,
    so it serves only where `param_shapes` is missing."""
    param_shapes: tuple[Mapping[str, Shape], ...] | None
    """Before DeepSpeed 0.6.0, which moved them to the model file."""
    expert_groups: tuple[bool, ...] | None
    """By flat group: whether it holds experts (`moe` in the optimizer's param groups)."""
    steps: tuple[float, ...]
    """The optimizer's own step counters that differ, sorted; equal on all ranks of one save."""
    state_names: tuple[str, ...]
    states: tuple[GroupState, ...]
    """By flat group. Empty for the first stage 1, whose optimizer has several parameters a group."""
    unplaced: tuple[str, ...]
    """Names of optimizer state that is not laid out like the parameters."""
    param_groups: tuple[Mapping[str, object], ...]
    training: Training
    ds_version: str | None
    ds_config: Mapping[str, Any]


def read_optimizer_file(raw: RawFile) -> OptimizerFile:
    """Check and type one optimizer file. Raises DamagedFile or UnsupportedLayout."""
    with at(raw.name.name):
        check_keys(raw.content, OPTIMIZER_FILE_KEYS)
        content = fields.field(raw.content, "optimizer_state_dict", dict)
        key = next((key for key in DIALECTS if key in content), None)
        check_keys(content, STATE_KEYS)
        if key is None:
            raise UnsupportedLayout(
                "the file holds no flat groups",
                expected=f"one of {', '.join(DIALECTS)}",
                found=", ".join(map(described, list(content)[:8])),
            )
        dialect = DIALECTS[key]
        states, groups = split_state(content.get(dialect.base))
        intervals = _intervals(content[key]) if key == "local_sub_partitions_of_fp32_groups" else None
        partitions = fields.flat(content[key], key) if intervals is None else tuple(group[0] for group in intervals)
        stage = fields.enum_int(content.get("zero_stage"))
        version = raw.content.get("ds_version") or content.get("ds_version")
        return OptimizerFile(
            rank=raw.name.dp_rank,
            mp_rank=raw.name.mp_rank,
            file=raw.path,
            cut=dialect.cut,
            wrapper=dialect.wrapper if stage is not None else dialect.wrapper_without_stage,
            stage=stage,
            partitions=partitions,
            intervals=intervals,
            partition_counts=_counts(content.get("partition_count"), len(partitions)),
            partition_ranks=_ranks(content.get("ds_zero_partition_groups"), len(partitions)),
            alignment_paddings=_paddings(content.get("param_alignment_paddings")),
            slices=_slices(content.get("param_slice_mappings")),
            param_shapes=fields.shape_groups(raw.content.get("param_shapes"), "param_shapes"),
            expert_groups=tuple(isinstance(g, Mapping) and bool(g.get("moe")) for g in groups) if groups else None,
            steps=steps_of(states.values()),
            state_names=state_names_of(states.values()),
            states=() if intervals is not None else group_states(states, partitions),
            unplaced=unplaced(states, partitions),
            param_groups=tuple(settings(group) for group in groups),
            training=training_of(content, groups, fields.config(raw.content), states),
            ds_version=version if isinstance(version, str) else None,
            ds_config=fields.config(raw.content),
        )


def _intervals(value: object) -> tuple[tuple[LocatedTensor, ...], ...]:
    if not isinstance(value, (list, tuple)):
        raise DamagedFile("'local_sub_partitions_of_fp32_groups' is not a list of groups")
    groups = tuple(fields.flat(group, "local_sub_partitions_of_fp32_groups") for group in value)
    if not all(groups):
        raise DamagedFile("'local_sub_partitions_of_fp32_groups' has a group without intervals")
    return groups


def _counts(value: object, groups: int) -> tuple[int, ...] | None:
    if value is None:
        return None
    listed: list[Any] = list(value) if isinstance(value, (list, tuple)) else [value] * groups
    if len(listed) != groups or not all(type(n) is int and n > 0 for n in listed):
        raise DamagedFile(
            "'partition_count' does not fit", expected=f"one for each of {groups} groups", found=described(value)
        )
    return tuple(listed)


def _ranks(value: object, groups: int) -> tuple[tuple[int, ...], ...] | None:
    """`ds_zero_partition_groups`: by sub-group, the data-parallel ranks that share it."""
    if value is None:
        return None
    listed = list(value.values()) if isinstance(value, Mapping) else value
    if not isinstance(listed, (list, tuple)) or len(listed) != groups:
        raise DamagedFile("'ds_zero_partition_groups' does not fit", expected=f"one for each of {groups} groups")
    found = []
    for group in listed:
        ranks = group.get("partition_ranks") if isinstance(group, Mapping) else None
        if not fields.are_counts(ranks):
            raise DamagedFile("'ds_zero_partition_groups' has a group without usable 'partition_ranks'")
        found.append(tuple(ranks))
    return tuple(found)


def _paddings(value: object) -> tuple[tuple[int, ...], ...] | None:
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or not all(map(fields.are_counts, value)):
        raise DamagedFile("'param_alignment_paddings' is not a list of lists of element counts")
    return tuple(tuple(group) for group in value)


def _slices(value: object) -> tuple[Slices, ...] | None:
    """`fragment_address(numel, start)` by name, by group (`deepspeed/utils/tensor_fragment.py`)."""
    if not isinstance(value, list) or not all(isinstance(group, Mapping) for group in value):
        return None
    return tuple({fields.name_of(name): _slice(name, address) for name, address in group.items()} for group in value)


def _slice(name: object, address: object) -> tuple[int, int]:
    start = address.attribute("start") if isinstance(address, Inert) else None
    numel = address.attribute("numel") if isinstance(address, Inert) else None
    if type(start) is not int or type(numel) is not int or start < 0 or numel < 0:
        raise DamagedFile(f"'param_slice_mappings' has no usable address for {described(name)}")
    return start, numel
