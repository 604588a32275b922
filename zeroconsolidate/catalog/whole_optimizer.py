"""A stage-0 optimizer, in the model file or in `expp_rank_*` files -> its master weights.

Master weights have no names there. Three dialects, distinguished by their keys:

* `fp32_groups`: a list over param groups of lists of masters in full shape (mirrors `FP16_UnfusedOptimizer` in
  `deepspeed/runtime/fp16/unfused_optimizer.py`, used for bf16 as well);
* `fp32_groups_flat`: one flat master a param group (mirrors `FP16_Optimizer` in `fused_optimizer.py`);
* neither: the module is trained as it is, there are no masters. Its parameters have names in the optimizer if the
  program gave torch's optimizer `named_parameters()`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..archive.located import LocatedTensor
from ..errors import DamagedFile, UnsupportedLayout
from . import fields
from .keys import WHOLE_STATE_KEYS, check_keys
from .optimizer_file import DIALECTS
from .state import OF_PARAMETERS, master_state, settings, split_state, state_names_of, steps_of, unplaced_in
from .training import training_of

if TYPE_CHECKING:
    from .facts import Shape
    from .state import MasterState
    from .training import Training


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeOptimizer:
    """A stage-0 optimizer's state."""

    file: str
    wrapper: str
    groups: tuple[tuple[LocatedTensor, ...], ...]
    """By param group: its masters in order, or one flat one where `fused`. Empty where there are no masters."""
    fused: bool
    states: tuple[tuple[MasterState, ...], ...]
    """By param group, by master: what the optimizer keeps of it. Empty where its numbers do not fit the masters."""
    named: Mapping[str, tuple[Mapping[Any, Any], int]]
    """Where there are no masters: by name, what the optimizer keeps, and the param group. Empty if it has no names."""
    expert_groups: tuple[bool, ...]
    """By param group: whether it holds experts."""
    steps: tuple[float, ...]
    state_names: tuple[str, ...]
    unplaced: tuple[str, ...]
    """Names of optimizer state that is not shaped like the parameters."""
    param_groups: tuple[Mapping[str, object], ...]
    training: Training


def read_whole_optimizer(content: Mapping[str, Any], file: str, config: Mapping[str, Any]) -> WholeOptimizer:
    """Check and type the value of the key `optimizer`. `config`: DeepSpeed's.

    Raises DamagedFile or UnsupportedLayout.
    """
    partitioned = next((key for key in DIALECTS if key in content), None)
    if partitioned:
        raise UnsupportedLayout(
            f"the model file holds one rank's {partitioned!r}",
            consequence="the optimizer files of all ranks are needed",
        )
    groups, fused, wrapper = _masters(content)
    if wrapper != "none":
        check_keys(content, WHOLE_STATE_KEYS)
    states, params = split_state(content.get("optimizer_state_dict") if wrapper != "none" else content)
    shapes = [master.shape for group in groups for master in group]
    if groups and params and len(params) != len(groups):
        raise DamagedFile(
            "the masters do not fit the param groups", expected=f"{len(params)} groups", found=len(groups)
        )
    return WholeOptimizer(
        file=file,
        wrapper=wrapper,
        groups=groups,
        fused=fused,
        states=_states(states, params, groups),
        named={} if groups else _named(states, params),
        expert_groups=tuple(
            bool(params[index].get("moe")) if index < len(params) and isinstance(params[index], Mapping) else False
            for index in range(len(groups))
        ),
        steps=steps_of(states.values()),
        state_names=state_names_of(states.values()),
        unplaced=_unplaced(states, shapes),
        param_groups=tuple(settings(group) for group in params),
        # The settings that the loss scaler had are saved one by one, and too few of them to make it again.
        training=training_of(
            {key: content[key] for key in ("clip_grad",) if key in content},
            params,
            config,
            # Of a master without dimensions one value is all there is.
            {number: states[number] for number, shape in enumerate(shapes) if shape and number in states},
        ),
    )


def _masters(content: Mapping[str, Any]) -> tuple[tuple[tuple[LocatedTensor, ...], ...], bool, str]:
    if "fp32_groups" in content:
        listed = fields.field(content, "fp32_groups", list)
        for group in listed:
            if not isinstance(group, (list, tuple)) or not all(isinstance(item, LocatedTensor) for item in group):
                raise DamagedFile("'fp32_groups' is not a list of lists of tensors")
        return tuple(tuple(group) for group in listed), False, "FP16_UnfusedOptimizer"
    if "fp32_groups_flat" in content:
        flat = fields.flat(content["fp32_groups_flat"], "fp32_groups_flat")
        return tuple((master,) for master in flat), True, "FP16_Optimizer"
    if content and not ("state" in content and "param_groups" in content):
        raise UnsupportedLayout(
            "the optimizer's state has an unknown layout", found=f"the keys {', '.join(map(str, list(content)[:8]))}"
        )
    return (), False, "none"


def _states(
    states: Mapping[Any, Mapping[Any, Any]], params: list[Any], groups: tuple[tuple[LocatedTensor, ...], ...]
) -> tuple[tuple[MasterState, ...], ...]:
    """torch numbers parameters through, group by group."""
    listed = [group.get("params") if isinstance(group, Mapping) else None for group in params]
    counts = [len(numbers) if fields.are_counts(numbers) else -1 for numbers in listed]
    if counts != [len(group) for group in groups]:
        return ()
    return tuple(
        tuple(
            master_state(states.get(number, {}), master, index)
            for number, master in zip(numbers or (), group, strict=True)
        )
        for index, (numbers, group) in enumerate(zip(listed, groups, strict=True))
    )


def _named(states: Mapping[Any, Mapping[Any, Any]], params: list[Any]) -> dict[str, tuple[Mapping[Any, Any], int]]:
    found: dict[str, tuple[Mapping[Any, Any], int]] = {}
    for index, group in enumerate(params):
        numbers, names = (group.get(key) if isinstance(group, Mapping) else None for key in OF_PARAMETERS)
        if not fields.are_counts(numbers) or not isinstance(names, (list, tuple)) or len(names) != len(numbers):
            return {}
        found |= {
            fields.name_of(name): (states.get(number, {}), index) for name, number in zip(names, numbers, strict=True)
        }
    return found


def _unplaced(states: Mapping[Any, Mapping[Any, Any]], shapes: list[Shape]) -> tuple[str, ...]:
    def is_placed(index: object, tensor: LocatedTensor) -> bool:
        # State of a parameter that has no master is not judged.
        return type(index) is not int or not 0 <= index < len(shapes) or tensor.shape == shapes[index]

    return unplaced_in(states, is_placed)
