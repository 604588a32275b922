"""What an engine reads at resume besides tensors: the settings of param groups, the loss scaler, a few flags.

All are plain values, but for the loss scaler, which is pickled as an object. Of that only the classes that DeepSpeed
has are known (`deepspeed/runtime/fp16/loss_scaler.py`), by name and attributes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from ..archive.inert import Inert, Name
from ..archive.located import LocatedTensor
from ..dtypes import DType
from .fields import are_counts, name_of
from .state import OF_PARAMETERS, is_plain, settings

if TYPE_CHECKING:
    from collections.abc import Sequence

SCALERS = {
    f"deepspeed.runtime.fp16.loss_scaler.{name}": name for name in ("LossScaler", "DynamicLossScaler")
}  # fmt: skip
_FLAGS = ("dynamic_loss_scale", "overflow", "clip_grad")
_TORCH = "torch."


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaler:
    """A loss scaler of DeepSpeed."""

    name: str
    """Of its class, one of those in SCALERS."""
    attributes: Mapping[str, object]
    """Plain values, and a DType where it has a dtype of torch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What rank 0's optimizer file says besides tensors."""

    param_groups: tuple[Mapping[str, object], ...]
    """The plain settings of each param group. Empty where they were not saved (`elastic_checkpoint`)."""
    flat_groups: tuple[tuple[int, ...], ...]
    """By param group: the indices of its flat groups. At stage 3 it may have several (`sub_group_size`)."""
    scaler: Scaler | None
    flags: Mapping[str, object]
    """`dynamic_loss_scale`, `overflow`, `clip_grad`, as far as they are there."""
    is_shuffled: bool
    """Whether `round_robin_gradients` has parameters in another order in flat groups than DeepSpeed's own addresses of
    them say. Resuming with that setting, it writes them to wrong places (`parameter_alignment` corrects it)."""
    unread: tuple[str, ...]
    """What has a value that is not plain, in words."""
    differs: tuple[str, ...] = ()
    """Settings of param groups in which model-parallel ranks differ."""


def training_of(
    content: Mapping[str, Any],
    groups: Sequence[object],
    config: Mapping[str, Any],
    states: Mapping[Any, Mapping[Any, Any]],
) -> Training:
    """The facts of an optimizer file. `content`: its state dict, `groups` and `states`: the wrapped optimizer's param
    groups and what it keeps of each flat group, `config`: DeepSpeed's."""
    zero = config.get("zero_optimization")
    zero = zero if isinstance(zero, Mapping) else {}
    unread = {
        f"the setting {key!r} of a param group"
        for group in groups
        if isinstance(group, Mapping)
        for key in group
        if key not in OF_PARAMETERS and key not in settings(group)
    }
    unread |= {repr(key) for key in _FLAGS if not is_plain(content.get(key))}
    unread |= {f"the optimizer's state {name!r}" for name in _scalars(states)}
    saved = content.get("loss_scaler")
    scaler = _scaler(saved)
    if saved is not None and scaler is None:
        unread.add("'loss_scaler'")
    return Training(
        param_groups=tuple(settings(group) for group in groups),
        flat_groups=tuple(_flat_groups(group) for group in groups),
        scaler=scaler,
        flags={key: content[key] for key in _FLAGS if key in content and is_plain(content[key])},
        is_shuffled=bool(zero.get("round_robin_gradients")) and not zero.get("parameter_alignment"),
        unread=tuple(sorted(unread)),
    )


def of_all(trainings: Sequence[Training]) -> Training | None:
    """What model-parallel ranks say together: the first's, and in which settings the others differ from it."""
    if not trainings:
        return None
    first, *others = trainings
    none: Mapping[str, object] = {}
    differs = {
        key
        for other in others
        for group, its in zip_longest(first.param_groups, other.param_groups, fillvalue=none)
        for key in {*group, *its}
        if key not in group or key not in its or group[key] != its[key]
    }
    return replace(first, differs=tuple(sorted(differs)))


def _flat_groups(group: object) -> tuple[int, ...]:
    """The optimizer's parameters are the flat groups, which its state dict numbers through."""
    listed = group.get("params") if isinstance(group, Mapping) else None
    return tuple(listed) if are_counts(listed) else ()


def _scalars(states: Mapping[Any, Mapping[Any, Any]]) -> set[str]:
    """What an optimizer keeps one value of for a whole flat group, besides the step: NAdam's `mu_product`. It is kept
    nowhere else, and no fragment has a place for it."""
    return {
        name_of(key)
        for state in states.values()
        for key, value in state.items()
        if isinstance(value, LocatedTensor) and not value.shape and key != "step"
    }


def _scaler(value: object) -> Scaler | None:
    """The loss scaler, if it is one of DeepSpeed's and all its attributes have values that are understood."""
    if not isinstance(value, Inert) or value.qualified_name not in SCALERS or value.args or value.items:
        return None
    state = {} if value.state is None else value.state  # an object without attributes is pickled without any
    if not isinstance(state, dict):
        return None
    attributes = {}
    for name, attribute in state.items():
        known = _dtype(attribute) if isinstance(attribute, Name) else attribute
        if not isinstance(name, str) or (known is not attribute and known is None) or not _is_known(known):
            return None
        attributes[name] = known
    return Scaler(name=SCALERS[value.qualified_name], attributes=attributes)


def _dtype(name: Name) -> DType | None:
    try:
        return DType.of(name.qualified_name.removeprefix(_TORCH))
    except KeyError:
        return None


def _is_known(value: object) -> bool:
    return is_plain(value) or isinstance(value, DType)
