"""Stages 1 and 2 save every parameter twice: fp32 masters in flat groups, and the module in its own dtype.

A master, rounded, must equal the module's element bit for bit. That is an independent witness of where we
think a parameter lies: an order of parameters, an alignment or a rank taken wrongly cannot pass it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .pieces import Recipe, View

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..catalog.facts import Catalog
    from .build import Source

SAMPLED_TENSORS = 256
SAMPLED_NUMEL = 512
"""The default check looks at so many elements at the beginning and end of so many parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A master and its module copy, and the element intervals to compare."""

    name: str
    master: Recipe
    copy: Recipe
    intervals: tuple[tuple[int, int], ...]


def comparisons(catalog: Catalog, stored: Mapping[str, Source], *, everything: bool) -> list[Comparison]:
    """What to compare: every element, or a sample too small to be felt. Empty at stage 3, which has no copies."""
    pairs = [
        (name, stored[owner].recipe, View(copy))
        for name, copy in catalog.module.items()
        if (owner := catalog.ties.get(name, name)) in stored and copy.numel
    ]
    if not everything and len(pairs) > SAMPLED_TENSORS:
        pairs = [pairs[i * len(pairs) // SAMPLED_TENSORS] for i in range(SAMPLED_TENSORS)]
    return [
        Comparison(name=name, master=master, copy=copy, intervals=_intervals(master.numel, everything=everything))
        for name, master, copy in pairs
    ]


def _intervals(numel: int, *, everything: bool) -> tuple[tuple[int, int], ...]:
    if everything or numel <= 2 * SAMPLED_NUMEL:
        return ((0, numel),)
    return ((0, SAMPLED_NUMEL), (numel - SAMPLED_NUMEL, numel))
