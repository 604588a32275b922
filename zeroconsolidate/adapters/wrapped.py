"""The names of a PEFT model -> what each is to the model that was wrapped: its own tensor, a copy, a factor.

A *path* is a tensor's name in the model as it was before PEFT wrapped it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..catalog.quantized import companions
from .wrapping import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..plan.build import Source
    from .additions import Factors
    from .peft_config import PeftConfig
    from .wrapping import Part


@dataclass(slots=True)
class PeftModel:
    """The names of a PEFT model, sorted by the tensor they belong to, and their role for it."""

    wrapper: str = ""
    own: dict[str, Source] = field(default_factory=dict)
    """Path -> the tensor the wrapped model has there; frozen, or trained beside the adapters."""
    saved: dict[str, dict[str, Source]] = field(default_factory=dict)
    """Path -> adapter -> what modules_to_save trained in its place."""
    wrappers: dict[str, dict[int, dict[str, Factors]]] = field(default_factory=dict)
    """Module -> depth -> adapter -> its factors, in the order of the model."""
    beside: dict[str, Source] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    tied: dict[str, str] = field(default_factory=dict)
    """Path -> the path whose tensor it shares."""
    quantized: dict[str, str] = field(default_factory=dict)
    """Path of a tensor that belongs to a quantized weight -> path of that weight."""


def collect(
    named: Mapping[str, Source],
    parts: Mapping[str, Part],
    ties: Mapping[str, str],
    configs: Mapping[str, PeftConfig],
) -> PeftModel:
    """Sort the names. `ties`: alias -> name, including those of tensors that were not saved."""
    wrappers = {part.wrapper for part in parts.values() if part.kind is Kind.TUNER}
    model = PeftModel(wrapper=next(iter(wrappers), ""))
    model.quantized |= companions(dict.fromkeys(part.module for part in parts.values()))
    for name, part in parts.items():
        source = named.get(name)
        if source is None or part.module in model.quantized:
            continue
        if part.adapter is not None and part.adapter not in configs:
            model.left_out.append(name)
        elif part.kind is Kind.BESIDE:
            model.beside[name] = source
        elif part.kind is Kind.SHARED:
            continue  # each module has it too
        elif part.kind is Kind.SAVED:
            model.saved.setdefault(part.module, {})[part.adapter or ""] = source
        elif part.kind is Kind.TUNER:
            by_adapter = model.wrappers.setdefault(part.module, {}).setdefault(part.depth, {})
            key = f"{part.attribute}.{part.rest}" if part.rest else part.attribute
            by_adapter.setdefault(part.adapter or "", {})[key] = source
        else:
            model.own[part.module] = source
    for alias, target in ties.items():
        here, there = parts.get(alias), parts.get(target)
        if here and there and here.module != there.module and {here.kind, there.kind} <= {Kind.OWN, Kind.ORIGINAL}:
            model.tied[here.module] = there.module
    return model
