"""The names of two models -> which tensor of one is which of the other: names and shapes decide, no values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..naming.decision import best_mapping
from ..naming.expectation import Expectation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..plan.sources import Source
    from .sides import Side

_LEGACY = {".LayerNorm.gamma": ".LayerNorm.weight", ".LayerNorm.beta": ".LayerNorm.bias"}
"""What old files call these, and what transformers 5 writes for models like BERT under ZeRO-3."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """Which names belong together."""

    pairs: tuple[tuple[str, str], ...]
    """(name in A, name in B), in the order of A; a pair of tensors under one of its names only."""
    only_a: tuple[str, ...]
    """Names of A that B lacks. Second names of tensors that are compared are not among them."""
    only_b: tuple[str, ...]
    change: str
    """What was done to names of B to match them, in words; empty if nothing was."""


def pair(a: Side, b: Side) -> Pairing:
    """Match the names of both: as they are, or after the change of prefix that matches most of them."""
    names, change = {name: name for name in b.tensors}, ""
    if a.tensors.keys() != b.tensors.keys():
        names, change = _matched(a, b)
    here: dict[str, str] = {}
    for name, new in names.items():
        here.setdefault(new, name)
    pairs: dict[tuple[int, int], tuple[str, str]] = {}
    for name, source in a.tensors.items():
        # What is stored of a quantized weight is no weight: it is compared with nothing but its like.
        if name in here and (name in a.stored) is (here[name] in b.stored):
            pairs.setdefault((id(source.recipe), id(b.tensors[here[name]].recipe)), (name, here[name]))
    compared_a, compared_b = ({ours for ours, _ in pairs}, {theirs for _, theirs in pairs})
    return Pairing(
        pairs=tuple(pairs.values()),
        only_a=_left(a.tensors, compared_a),
        only_b=_left(b.tensors, compared_b),
        change=change,
    )


def _matched(a: Side, b: Side) -> tuple[dict[str, str], str]:
    """Name in B -> name by which it is looked for in A; and what was done, in words."""
    modern = {name: _modern(name) if _modern(name) in a.tensors else name for name in b.tensors}
    expected = Expectation(
        origin="A", shapes={name: source.shape for name, source in a.tensors.items()}, ties=a.ties, exact=False
    )
    shapes = {modern[name]: source.shape for name, source in b.tensors.items()}
    ties = {modern[name]: modern[owner] for name, owner in b.ties.items()}
    naming = best_mapping(shapes, ties, expected)
    new = {**naming.mapping, **naming.heads}
    names = {name: new.get(modern[name], modern[name]) for name in b.tensors}
    plain = sum(name in a.tensors for name in b.tensors)
    if sum(name in a.tensors for name in names.values()) <= plain:
        return {name: name for name in b.tensors}, ""
    legacy = ["LayerNorm's gamma and beta read as weight and bias"] if any(n != m for n, m in modern.items()) else []
    return names, ", ".join([*([naming.change] if naming.change else []), *legacy])


def _modern(name: str) -> str:
    for old, new in _LEGACY.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _left(tensors: Mapping[str, Source], compared: set[int]) -> tuple[str, ...]:
    """Names of tensors that are not compared under any name."""
    return tuple(name for name, source in tensors.items() if id(source.recipe) not in compared)
