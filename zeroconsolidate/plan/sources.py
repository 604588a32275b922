"""Catalog -> where the elements of every tensor are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..archive.names import file_name
from ..catalog.agree import are_missing
from ..catalog.facts import Cut, FrozenStripes
from ..errors import PlanBroken
from . import zero3, zero12
from .joins import Held, Replica, put_together
from .pieces import Recipe, View

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ..archive.located import LocatedTensor
    from ..catalog.facts import Catalog, FlatGroup, Frozen, Part, Shape

Holdings = dict[str, list[Held]]
"""What one part holds, by name: replicas in a list, the first of which is used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A named tensor of the checkpoint and where its elements are."""

    name: str
    shape: Shape
    recipe: Recipe
    role: str
    """`trainable`, `frozen` or `buffer`."""
    keeps_dtype: bool = False
    """Whether the output's dtype does not apply to it: a transformation has given it the dtype it must have."""

    @classmethod
    def of_model(cls, name: str, tensor: LocatedTensor) -> Source:
        """A tensor of another model's files: nothing in it was trained here."""
        return cls(name=name, shape=tensor.shape, recipe=View(tensor), role="frozen")


def sources(catalog: Catalog) -> dict[str, Source]:
    """Every stored tensor by its stored name, in the order of the module. Ties are not among them.

    Raises Disagreement or DamagedFile if the shapes do not fit the flat groups or the parts do not fit together,
    MissingFiles if files are.
    """
    if catalog.missing:
        raise are_missing(list(catalog.missing), catalog.origin.world_size)
    return placed(catalog)


def placed(catalog: Catalog) -> dict[str, Source]:
    """`sources`, also of an incomplete checkpoint: copies of lost elements name LOST as their file."""
    parts_of = place(catalog)
    found: dict[str, Source] = {}
    for name in _names(catalog, parts_of):
        parts = [holdings[name][0] for holdings in parts_of if name in holdings]
        whole = put_together(name, catalog.joins.get(name), parts if parts[0].role != "buffer" else parts[:1])
        found[name] = Source(name=name, shape=whole.shape, recipe=whole.recipe, role=parts[0].role)
    return found


def replicas(catalog: Catalog) -> list[Replica]:
    """Everything that is held more than once and must be equal. Buffers may differ: they are not trained."""
    parts_of = place(catalog)
    found: list[Replica] = []
    for name in _names(catalog, parts_of):
        parts = [holdings[name] for holdings in parts_of if name in holdings]
        if parts[0][0].role == "buffer":
            continue
        for first, *others in parts:
            found += (
                Replica(
                    name=name,
                    first=first.recipe,
                    other=other.recipe,
                    holders=(first.holder, other.holder),
                    is_spare=other.is_spare,
                )
                for other in others
            )
        if len(parts) > 1:
            found += put_together(name, catalog.joins.get(name), [part[0] for part in parts]).replicas
    return found


def place(catalog: Catalog) -> list[Holdings]:
    """What each part of the model holds."""
    return [_place(part, many=len(catalog.parts) > 1) for part in catalog.parts]


def _place(part: Part, *, many: bool) -> Holdings:
    holdings: Holdings = {}

    def holder(text: str) -> str:
        return f"rank {part.index} of the split, {text}" if many else text

    def add(name: str, shape: Shape, recipe: Recipe, role: str, text: str, *, is_spare: bool = False) -> None:
        held = Held(shape=shape, recipe=recipe, role=role, holder=holder(text), is_spare=is_spare)
        holdings.setdefault(name, []).append(held)

    for group in part.groups:
        recipes: Mapping[str, Recipe] = (zero12 if group.cut is Cut.CONTIGUOUS else zero3).place(group)
        for member in group.members:
            recipe = recipes[member.name]
            add(member.name, member.shape, recipe, "trainable", group.holder, is_spare=member.is_spare)
    for masters in part.masters:
        for name, tensor in masters.items():
            add(name, tensor.shape, View(tensor), "trainable", file_name(tensor.file))
    for name, frozen in part.frozen.items():
        add(name, frozen.shape, _frozen(frozen), "frozen", "frozen")
    for name, buffer in part.buffers.items():
        add(name, buffer.shape, View(buffer), "buffer", "buffer")
    return holdings


def _frozen(frozen: Frozen) -> Recipe:
    if not isinstance(frozen, FrozenStripes):
        return View(frozen)
    return zero3.FragmentStripes(frozen, math.prod(frozen.shape))


def _names(catalog: Catalog, parts: list[Holdings]) -> Iterator[str]:
    for name in catalog.order:
        if any(name in holdings for holdings in parts):
            yield name
        elif name not in catalog.ties:
            raise PlanBroken(f"the catalog lists {name} without saying where it is")


def padding_bytes(catalog: Catalog) -> int:
    """Bytes of the flat groups that no parameter uses; together with the parameters they are all bytes."""
    return sum(_padding_bytes(group) for group in catalog.groups if group.partitions)


def _padding_bytes(group: FlatGroup) -> int:
    held = sum(partition.numel for partition in group.partitions)
    return (held - sum(member.numel for member in group.members)) * group.partitions[0].dtype.itemsize
