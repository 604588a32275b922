"""Ties that are recorded nowhere: two names with the same values, which cannot be a coincidence."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from ..plan.pieces import View
from ..run.elements import bits, distinct

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..archive.located import LocatedTensor
    from ..catalog.facts import Catalog, Part, Stray
    from ..run.inputs import Inputs

T = TypeVar("T")

HEAD_NUMEL = 8
SAMPLE_NUMEL = 4096
DISTINCT = 16
"""A tensor with at least so many different values is no accident: zeros and ones are often equal, weights never."""


def tie_twins(catalog: Catalog, inputs: Inputs) -> Catalog:
    """The catalog with strays that have the values of a parameter turned into ties, the rest left as they are."""
    ties: dict[str, str] = {}
    parts, notes = list(catalog.parts), []
    for stray in catalog.strays:
        part = parts[stray.part]
        owner = _owner(part, stray, ties, inputs)
        if owner is not None:
            ties[stray.name] = owner
            parts[stray.part] = replace(
                part,
                frozen=_without(part.frozen, stray.name),
                buffers=_without(part.buffers, stray.name),
                masters=tuple(_without(masters, stray.name) for masters in part.masters),
                module={**part.module, stray.name: stray.copy},
            )
        elif stray.unlisted:
            notes.append(f"{stray.name} is listed neither as parameter nor as buffer; written unchanged, as a buffer")
    return replace(
        catalog, parts=tuple(parts), ties={**ties, **catalog.ties}, strays=(), notes=(*catalog.notes, *notes)
    )


def _without(held: Mapping[str, T], name: str) -> dict[str, T]:
    return {other: value for other, value in held.items() if other != name}


def _owner(part: Part, stray: Stray, ties: Mapping[str, str], inputs: Inputs) -> str | None:
    """The parameter whose values the stray has, if it is not a trained parameter itself."""
    masters = part.saved_masters
    if stray.name in masters and masters[stray.name] is not stray.copy:
        return None
    trained = {member.name for group in part.groups for member in group.members} | set(masters)
    for name, copy in {**masters, **part.module}.items():
        if name == stray.name:
            if copy is masters.get(name):
                return None  # of two names without a master the first one owns the values
            continue
        if name in trained and name not in ties and _equal(copy, stray.copy, inputs):
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
