"""What a `*_optim_states.pt` says about master weights.

Two dialects, told apart by the key of the flat groups, so that a file without `zero_stage` is read as well:

* `single_partition_of_fp32_groups`: stages 1 and 2 (mirrors `DeepSpeedZeroOptimizer._rigid_state_dict` in
  `deepspeed/runtime/zero/stage_1_and_2.py`);
* `fp32_flat_groups`: stage 3 (mirrors `DeepSpeedZeroOptimizer_Stage3._rigid_state_dict` in
  `deepspeed/runtime/zero/stage3.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..archive.located import LocatedTensor
from ..archive.shown import shown
from ..errors import DamagedFile, UnsupportedLayout, at
from . import fields
from .facts import Cut

if TYPE_CHECKING:
    from ..archive.raw import RawFile

_DIALECTS = {
    # key of the flat groups           cut             key of the wrapped optimizer's own state dict
    "single_partition_of_fp32_groups": (Cut.CONTIGUOUS, "base_optimizer_state"),
    "fp32_flat_groups": (Cut.STRIPED, "optimizer_state_dict"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerFile:
    """One rank's optimizer states, as far as they are needed to find and trust its master weights."""

    rank: int
    file: str
    cut: Cut
    stage: int | None
    partitions: tuple[LocatedTensor, ...]
    """By flat group."""
    partition_counts: tuple[int, ...] | None
    """By flat group: over how many ranks it is cut. None where the file does not say."""
    alignment_paddings: tuple[tuple[int, ...], ...] | None
    """By flat group, by member: elements of padding behind it (DeepSpeed > 0.19.6)."""
    slice_names: tuple[tuple[str, ...], ...] | None
    """By flat group: the parameters that touch this rank's partition, in `param_slice_mappings`' (unreliable) order."""
    steps: tuple[float, ...]
    """The optimizer's own step counters that differ, sorted; equal on all ranks of one save."""
    state_names: tuple[str, ...]
    param_groups: tuple[Mapping[str, object], ...]
    ds_version: str | None
    ds_config: Mapping[str, Any]


def read_optimizer_file(raw: RawFile) -> OptimizerFile:
    """Check and type one optimizer file. Raises DamagedFile or UnsupportedLayout."""
    with at(raw.name.name):
        content = fields.field(raw.content, "optimizer_state_dict", dict)
        key = next((key for key in _DIALECTS if key in content), None)
        if key is None:
            raise UnsupportedLayout(
                f"the file holds no flat groups; expected one of {', '.join(_DIALECTS)}, "
                f"got {', '.join(map(shown, list(content)[:8]))}"
            )
        cut, base_key = _DIALECTS[key]
        base = content.get(base_key)
        states, groups = _base(base)
        partitions = fields.flat(content[key], key)
        version = raw.content.get("ds_version") or content.get("ds_version")
        return OptimizerFile(
            rank=raw.name.dp_rank,
            file=raw.path,
            cut=cut,
            stage=fields.enum_int(content.get("zero_stage")),
            partitions=partitions,
            partition_counts=_counts(content.get("partition_count"), len(partitions)),
            alignment_paddings=_paddings(content.get("param_alignment_paddings")),
            slice_names=_slice_names(content.get("param_slice_mappings")),
            steps=tuple(sorted({step for state in states if (step := _step(state.get("step"))) is not None})),
            state_names=tuple(
                sorted(
                    {
                        fields.name_of(k)
                        for s in states
                        for k, v in s.items()
                        if isinstance(v, LocatedTensor) and v.shape
                    }
                )
            ),
            param_groups=tuple(_settings(group) for group in groups),
            ds_version=version if isinstance(version, str) else None,
            ds_config=fields.field(raw.content, "ds_config", dict, {}),
        )


def _base(base: object) -> tuple[list[Mapping[Any, Any]], list[Any]]:
    """The states by flat group and the param groups of the wrapped optimizer."""
    if isinstance(base, list):  # `elastic_checkpoint: true` keeps a list by group, without param groups
        return [state for state in base if isinstance(state, Mapping)], []
    if not isinstance(base, Mapping):
        return [], []
    states = base.get("state")
    groups = base.get("param_groups")
    return (
        [state for state in states.values() if isinstance(state, Mapping)] if isinstance(states, Mapping) else [],
        groups if isinstance(groups, list) else [],
    )


def _step(value: object) -> float | None:
    if isinstance(value, LocatedTensor):
        value = value.item
    if isinstance(value, int) and abs(value) >> 53:
        raise DamagedFile(f"the optimizer's step is impossible; got {value}")
    return float(value) if isinstance(value, (int, float)) else None


def _settings(group: object) -> dict[str, object]:
    if not isinstance(group, Mapping):
        return {}
    return {
        key: value
        for key, value in group.items()
        if isinstance(key, str) and key != "params" and (_is_plain(value) or _is_plain_list(value))
    }


MAX_SETTING_ITEMS = 16
"""A longer list among the optimizer's settings is left out. `betas` has 2 or 3."""


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, (int, float, str, bool))


def _is_plain_list(value: object) -> bool:
    # Flat, because what is nested may contain itself, or the same list 2**50 times.
    return isinstance(value, (tuple, list)) and len(value) <= MAX_SETTING_ITEMS and all(map(_is_plain, value))


def _counts(value: object, groups: int) -> tuple[int, ...] | None:
    if value is None:
        return None
    listed: list[Any] = list(value) if isinstance(value, (list, tuple)) else [value] * groups
    if len(listed) != groups or not all(type(n) is int and n > 0 for n in listed):
        raise DamagedFile(
            f"'partition_count' does not fit; expected one for each of {groups} groups, got {shown(value)}"
        )
    return tuple(listed)


def _paddings(value: object) -> tuple[tuple[int, ...], ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(
        isinstance(group, list) and all(type(n) is int and n >= 0 for n in group) for group in value
    ):
        raise DamagedFile("'param_alignment_paddings' is not a list of lists of element counts")
    return tuple(tuple(group) for group in value)


def _slice_names(value: object) -> tuple[tuple[str, ...], ...] | None:
    if not isinstance(value, list) or not all(isinstance(group, Mapping) for group in value):
        return None
    return tuple(tuple(name for name in group if isinstance(name, str)) for group in value)
