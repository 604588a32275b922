"""What a merge is recomputed from: the checkpoint's parameters, the base's tensors and what was written, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..adapters.peft_config import TUNER_PREFIXES
from ..archive.safetensors import read_file
from ..archive.weights import read_weights
from ..errors import ZeroConsolidateError
from .factors import factors, pairs, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..archive.located import LocatedTensor
    from ..opening.opened import Opened
    from ..plan.build import ModelPlan
    from ..plan.layout import TensorPlan


class MergeSources:
    """All of it."""

    def __init__(
        self,
        plan: ModelPlan,
        opened: Opened,
        staged: Callable[[str], str],
        base: str | None,
        configs: Mapping[str, Mapping[str, Any]],
        planned: Mapping[str, TensorPlan],
    ) -> None:
        ties = opened.catalog.ties.items()
        stored = dict(opened.stored) | {name: opened.stored[its] for name, its in ties if its in opened.stored}
        self.planned = planned
        self.factors, self.wrapped = factors(stored, configs, _prefixes(configs))
        self.own = {plain(name): source for name, source in stored.items()}
        self.written: dict[str, LocatedTensor] = {}
        for file in plan.files:
            self.written |= read_file(staged(file.name)).tensors
        tensors = _base_tensors(base, configs)
        lacking = [name for name in planned if name not in tensors]
        # A base of a class with another head may have another prefix.
        self.base = {name: tensors[its] for its, name in pairs(tensors, lacking).items()} | dict(tensors)


def _prefixes(configs: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """How the attributes begin that hold parameters of these adapters."""
    kinds = {str(config.get("peft_type", "")).upper() for config in configs.values()}
    return ("trainable_tokens_", *(prefix for kind in kinds for prefix in TUNER_PREFIXES.get(kind, ())))


def _base_tensors(base: str | None, configs: Mapping[str, Mapping[str, Any]]) -> Mapping[str, LocatedTensor]:
    """Of the original model, unless an adapter's beginning altered the weights it belongs to."""
    altering = ("pissa", "olora", "corda", "loftq", "lora_ga")
    altered = any(str(c.get("init_lora_weights", "")).lower().startswith(altering) for c in configs.values())
    if base is None or altered:
        return {}
    try:
        return read_weights(base).tensors
    except ZeroConsolidateError:
        return {}  # it was read before, and is said there
