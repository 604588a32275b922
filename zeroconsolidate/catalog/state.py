"""A wrapped optimizer's own state dict -> typed facts: its values for each element, its step, its settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from ..archive.located import LocatedTensor
from ..errors import DamagedFile
from . import fields

if TYPE_CHECKING:
    from collections.abc import Callable

Step: TypeAlias = "LocatedTensor | float | int | None"
"""The step of a group as it was saved: a tensor of one element (torch), a number (CPU Adam, ZenFlow), or nothing."""


@dataclass(frozen=True, slots=True)
class GroupState:
    """What the optimizer keeps of a flat group on one rank."""

    values: Mapping[str, LocatedTensor]
    """By name, such as `exp_avg`: one value for each element of the rank's partition."""
    step: Step


@dataclass(frozen=True, slots=True)
class MasterState:
    """What the optimizer keeps of a master that is saved whole."""

    values: Mapping[str, LocatedTensor]
    """By name: one value for each element."""
    step: Step
    param_group: int


def group_states(
    states: Mapping[Any, Mapping[Any, Any]], partitions: tuple[LocatedTensor, ...]
) -> tuple[GroupState, ...]:
    """The state of each flat group. The optimizer has one flat parameter a group, and calls it by the group's index."""
    found = []
    for index, held in enumerate(partitions):
        state = states.get(index, {})
        values = {fields.name_of(key): value for key, value in state.items() if _is_placed(value, held)}
        found.append(GroupState(values, _step_in(state)))
    return tuple(found)


def master_state(state: Mapping[Any, Any], master: LocatedTensor, param_group: int) -> MasterState:
    """What is there of it."""
    values = {
        fields.name_of(key): value
        for key, value in state.items()
        # The step of a master without dimensions has its shape.
        if isinstance(value, LocatedTensor) and value.shape == master.shape and key != "step"
    }
    return MasterState(values, _step_in(state), param_group)


def _step_in(state: Mapping[Any, Any]) -> Step:
    step = state.get("step")
    is_step = isinstance(step, (int, float)) or (isinstance(step, LocatedTensor) and not step.shape)
    return step if is_step else None


def _is_placed(value: object, held: LocatedTensor) -> bool:
    """Whether these are values for each element of a partition. DeepSpeed strips the padding at the end from masters,
    not from these."""
    return (
        isinstance(value, LocatedTensor) and len(value.shape) == 1 and value.is_contiguous and value.numel >= held.numel
    )


def split_state(base: object) -> tuple[dict[Any, Mapping[Any, Any]], list[Any]]:
    """The states by flat group (or parameter) and the param groups of the wrapped optimizer."""
    if isinstance(base, list):  # `elastic_checkpoint: true` keeps a list by group, without param groups
        return {index: state for index, state in enumerate(base) if isinstance(state, Mapping)}, []
    if not isinstance(base, Mapping):
        return {}, []
    states = base.get("state")
    groups = base.get("param_groups")
    return (
        {index: state for index, state in states.items() if isinstance(state, Mapping)}
        if isinstance(states, Mapping)
        else {},
        groups if isinstance(groups, list) else [],
    )


def steps_of(states: Any) -> tuple[float, ...]:
    """The step counters that differ, sorted: tensors, or numbers (CPU Adam, ZenFlow)."""
    return tuple(sorted({step for state in states if (step := _step(state.get("step"))) is not None}))


def state_names_of(states: Any) -> tuple[str, ...]:
    """Names of what the optimizer keeps for each element, sorted."""
    return tuple(
        sorted({fields.name_of(k) for s in states for k, v in s.items() if isinstance(v, LocatedTensor) and v.shape})
    )


OF_PARAMETERS = ("params", "param_names")
"""Entries of a param group that are no settings: which parameters it has, by number, and by name where the program gave
torch's optimizer names."""


def settings(group: object) -> dict[str, object]:
    """The plain values of a param group."""
    if not isinstance(group, Mapping):
        return {}
    return {
        key: value
        for key, value in group.items()
        if isinstance(key, str) and key not in OF_PARAMETERS and (is_plain(value) or _is_plain_list(value))
    }


MAX_SETTING_ITEMS = 16
"""A longer list among the optimizer's settings is left out. `betas` has 2 or 3."""


def is_plain(value: object) -> bool:
    """Whether a value is None, a number, a truth value or text."""
    return value is None or isinstance(value, (int, float, str, bool))


def _is_plain_list(value: object) -> bool:
    # Flat, because what is nested may contain itself, or the same list 2**50 times.
    return isinstance(value, (tuple, list)) and len(value) <= MAX_SETTING_ITEMS and all(map(is_plain, value))


def _step(value: object) -> float | None:
    if isinstance(value, LocatedTensor):
        value = value.item
    if isinstance(value, int) and abs(value) >> 53:
        raise DamagedFile("the optimizer's step is impossible", found=value)
    return float(value) if isinstance(value, (int, float)) else None


def unplaced(states: Mapping[Any, Mapping[Any, Any]], partitions: tuple[LocatedTensor, ...]) -> tuple[str, ...]:
    """What is neither one value a group nor one value an element: blocks' scales of an 8-bit optimizer, factors."""

    def is_placed(index: object, tensor: LocatedTensor) -> bool:
        held = partitions[index] if type(index) is int and 0 <= index < len(partitions) else None
        return held is not None and len(tensor.shape) == 1 and tensor.numel >= held.numel

    return unplaced_in(states, is_placed)


def unplaced_in(
    states: Mapping[Any, Mapping[Any, Any]], is_placed: Callable[[object, LocatedTensor], bool]
) -> tuple[str, ...]:
    """Names of state that is laid out in a way of its own: tensors of several values that `is_placed(index, tensor)`
    does not place, and collections of tensors."""
    found = {
        fields.name_of(key)
        for index, state in states.items()
        for key, value in state.items()
        if (isinstance(value, LocatedTensor) and value.numel > 1 and not is_placed(index, value))
        or _holds_tensors(value)
    }
    return tuple(sorted(found))


def _holds_tensors(value: object) -> bool:
    """Whether state is a collection of tensors, as bitsandbytes wraps its 8-bit moments up."""
    items: Any = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return any(isinstance(item, LocatedTensor) for item in items)
