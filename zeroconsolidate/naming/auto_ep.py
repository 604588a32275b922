"""The names of DeepSpeed's AutoEP -> those that transformers 5 has in memory, for the experts that AutoEP replaced.

`deepspeed/moe/ep_repack.py` cuts the experts of a known model into three stacks, and `module_inject/auto_ep_layer.py`
puts the router under a name of its own:

    mlp.experts.w1, mlp.experts.w3     mlp.experts.gate_up_proj    of each expert the gate's rows, then the others
    mlp.experts.w2                     mlp.experts.down_proj
    mlp.router.gate.weight             mlp.gate.weight
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from ..plan.build import Selection
from .hub_layout import Conversion, converted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..plan.build import Source

_STACK = re.compile(r"(?P<layer>.+)\.experts\.w1")


def as_before_auto_ep(selection: Selection) -> Selection:
    """`selection` with the experts and routers that AutoEP replaced as they were before, the rest as it is."""
    layers = [match["layer"] for name in selection.named if (match := _STACK.fullmatch(name))]
    changed: dict[str, tuple[str, Source] | None] = {}
    for layer in layers:
        changed |= _layer(layer, selection.named)
    if not changed:
        return selection
    named: dict[str, Source] = {}
    for name, source in selection.named.items():
        there = changed.get(name, (name, source))
        if there is not None:
            named[there[0]] = there[1]
    seconds = {name for layer in layers for name in _routers(layer)}
    return Selection(named=named, left_out=tuple(name for name in selection.left_out if name not in seconds))


def _layer(layer: str, named: Mapping[str, Source]) -> dict[str, tuple[str, Source] | None]:
    """Stored name -> (name, tensor) before AutoEP, None for what became a part of another tensor."""
    gate, down, up = (f"{layer}.experts.w{number}" for number in (1, 2, 3))
    if not {down, up} <= named.keys() or len(named[gate].shape) != 3 or named[gate].shape != named[up].shape:
        return {}
    experts, rows, width = named[gate].shape
    fused = Conversion(
        output=f"{layer}.experts.gate_up_proj",
        shape=(experts, 2 * rows, width),
        inputs=(gate, up),
        row_numel=width,
        runs=tuple((part, expert * rows, rows) for expert in range(experts) for part in (0, 1)),
        opaque=False,
    )
    found: dict[str, tuple[str, Source] | None] = {
        gate: _renamed(fused.output, converted(fused, named)),
        up: None,
        down: _renamed(f"{layer}.experts.down_proj", named[down]),
    }
    for number, name in enumerate(name for name in _routers(layer) if name in named):
        found[name] = _renamed(f"{layer}.gate.weight", named[name]) if number == 0 else None
    return found


def _routers(layer: str) -> tuple[str, str]:
    """The router's two names (`alias_target` in `auto_ep_layer.py`): either may come first in the module."""
    return f"{layer}.router.gate.weight", f"{layer}.gate.gate.weight"


def _renamed(name: str, source: Source) -> tuple[str, Source]:
    """Under its new name only: that the save has a second one for it is nothing to the model."""
    return name, replace(source, name=name)
