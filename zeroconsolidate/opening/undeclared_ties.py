"""Tensors that no list names -> second names of parameters, found by equal values."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from ..catalog.noted import NOT_LISTED, NOT_OPTIMIZED, in_words
from ..plan.pieces import View
from ..run.elements import bits, distinct

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..archive.located import LocatedTensor
    from ..catalog.facts import Catalog, MaybeTie, Part
    from ..catalog.noted import Remark
    from ..run.inputs import Inputs

T = TypeVar("T")

HEAD_NUMEL = 8
SAMPLE_NUMEL = 4096
DISTINCT = 16
"""A tensor with at least so many different values is not an accident: zeros and ones are often equal, weights never."""


def tie_equal_tensors(catalog: Catalog, inputs: Inputs) -> Catalog:
    """The catalog with a tie for each tensor that has the values of a parameter; the rest is left as it is."""
    ties: dict[str, str] = {}
    parts = list(catalog.parts)
    said: dict[Remark, list[str]] = {NOT_LISTED: [], NOT_OPTIMIZED: []}
    for maybe in catalog.maybe_ties:
        part = parts[maybe.part]
        owner = _owner(part, maybe, ties, inputs)
        if owner is not None:
            ties[maybe.name] = owner
            parts[maybe.part] = replace(
                part,
                frozen=_without(part.frozen, maybe.name),
                buffers=_without(part.buffers, maybe.name),
                masters=tuple(_without(masters, maybe.name) for masters in part.masters),
                module={**part.module, maybe.name: maybe.copy},
            )
        elif maybe.unlisted:
            said[NOT_LISTED if maybe.name in part.buffers else NOT_OPTIMIZED].append(maybe.name)
    noted = in_words({remark: tuple(dict.fromkeys(names)) for remark, names in said.items()})
    return replace(
        catalog,
        parts=tuple(parts),
        ties={**ties, **catalog.ties},
        maybe_ties=(),
        notes=(*catalog.notes, *noted),
        noted={**catalog.noted, **noted},
    )


def _without(held: Mapping[str, T], name: str) -> dict[str, T]:
    return {other: value for other, value in held.items() if other != name}


def _owner(part: Part, maybe: MaybeTie, ties: Mapping[str, str], inputs: Inputs) -> str | None:
    """The parameter whose values `maybe` has, if it is not a trained parameter itself."""
    masters = part.saved_masters
    if maybe.name in masters and masters[maybe.name] is not maybe.copy:
        return None
    trained = {member.name for group in part.groups for member in group.members} | set(masters)
    for name, copy in {**masters, **part.module}.items():
        if name == maybe.name:
            if copy is masters.get(name):
                return None  # of two names without a master the first one owns the values
            continue
        if name in trained and name not in ties and _equal(copy, maybe.copy, inputs):
            return name
    return None


def _equal(one: LocatedTensor, other: LocatedTensor, inputs: Inputs) -> bool:
    if one.shape != other.shape or one.dtype is not other.dtype:
        return False
    for upto in (min(one.numel, HEAD_NUMEL), one.numel):
        if bits(one, 0, upto, one.dtype, inputs) != bits(other, 0, upto, other.dtype, inputs):
            return False
    return is_varied(one, inputs)


def is_varied(tensor: LocatedTensor, inputs: Inputs) -> bool:
    """Whether the tensor has DISTINCT different values, as far as its beginning shows."""
    return distinct(View(tensor), SAMPLE_NUMEL, inputs) >= DISTINCT
