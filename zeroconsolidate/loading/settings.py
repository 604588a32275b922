"""Param groups of a checkpoint -> the settings of one param group that takes their parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .training_state import TrainingState

OF_THE_MACHINE = ("foreach", "fused", "capturable", "differentiable")
"""Settings of torch's optimizers that say how they compute, not what: these stay as the program has set them."""


def common_settings(state: TrainingState, stored: Iterable[str]) -> tuple[dict[str, object], list[str]]:
    """(what the param groups of these parameters have in common, the names of settings in which they differ)."""
    numbers = sorted({state.group_of[name] for name in stored if name in state.group_of})
    groups: list[Mapping[str, object]] = [state.param_groups[number] for number in numbers]
    if not groups:
        return {}, []
    first, *others = groups
    known = dict.fromkeys(key for group in groups for key in group if key not in OF_THE_MACHINE)
    common = {
        key: first[key]
        for key in known
        if key in first and all(key in each and each[key] == first[key] for each in others)
    }
    return common, [key for key in known if key not in common]
