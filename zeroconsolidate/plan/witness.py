"""Catalog -> what to compare: master weights with the copies that most layouts save in the training dtype.

A rounded master must equal the copy in the module bit for bit. That proves where a parameter is, independently of the
plan: a wrong order of parameters, a wrong alignment or a wrong rank would be noticed. Where ranks
hold parts of a tensor, each part is compared with its rank's own copy, before anything is joined.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from .joined import Section
from .pieces import Recipe, View
from .sources import place

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ..archive.located import LocatedTensor
    from ..catalog.facts import Catalog
    from .joins import Replica
    from .sources import Source

T = TypeVar("T")

Witnesses: TypeAlias = "Mapping[str, tuple[Recipe, View]]"
"""By stored name: what the masters are read by, and their copy in the module."""

SAMPLED_TENSORS = 256
SAMPLED_NUMEL = 512
"""The default check compares so many elements at the beginning and end of so many parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A master and its module copy (or two replicas, of one dtype), and the element intervals to compare."""

    name: str
    master: Recipe
    copy: Recipe
    intervals: tuple[tuple[int, int], ...]
    holders: tuple[str, str] | None = None
    """For replicas: who holds each."""
    is_spare: bool = False
    """For replicas: whether a difference is only a warning (see `Replica`)."""

    @property
    def numel(self) -> int:
        """How many elements are compared."""
        return sum(stop - start for start, stop in self.intervals)


def comparisons(catalog: Catalog, stored: Mapping[str, Source], *, everything: bool) -> list[Comparison]:
    """What to compare: every element, or a sample too small to be felt. Empty where there are no copies."""
    pairs = [*_pairs(catalog, stored), *_stacked(catalog, stored)]
    return [
        Comparison(name=name, master=master, copy=View(copy), intervals=both_ends(copy.numel, everything=everything))
        for name, master, copy in (pairs if everything else spread(pairs))
    ]


def _pairs(catalog: Catalog, stored: Mapping[str, Source]) -> Iterator[tuple[str, Recipe, LocatedTensor]]:
    for part, holdings in zip(catalog.parts, place(catalog), strict=True):
        for name, copy in part.module.items():
            owner = catalog.ties.get(name, name)
            held = holdings.get(owner)
            if held and copy.numel and held[0].role == "trainable" and owner in stored:
                yield name, held[0].recipe, copy


def _stacked(catalog: Catalog, stored: Mapping[str, Source]) -> Iterator[tuple[str, Recipe, LocatedTensor]]:
    for name, copies in catalog.stacked.items():
        if name not in stored:
            continue
        whole = stored[name].recipe
        numel = whole.numel // len(copies)
        for expert, copy in enumerate(copies):
            yield f"{name}[{expert}]", Section(whole, expert * numel, numel), copy


def witnesses(catalog: Catalog, stored: Mapping[str, Source]) -> Witnesses:
    """Copies that could stand in a file in place of the rounded masters, because each is whole and one extent.

    Whether they equal the masters is not known: that is for whoever makes use of them to find out, of every element.
    None of a model that ranks hold in parts, whose copies are in parts as well.
    """
    if len(catalog.parts) != 1:
        return {}
    found = {}
    for name, copy in catalog.parts[0].module.items():
        view, source = View(copy), stored.get(name)
        if source is not None and source.role == "trainable" and source.shape == copy.shape and view.is_plain:
            found[name] = (source.recipe, view)
    return found


def replica_comparisons(held_twice: Sequence[Replica]) -> list[Comparison]:
    """What is held more than once, to be compared in full: then it does not matter which copy is written."""
    return [
        Comparison(
            name=replica.name,
            master=replica.first,
            copy=replica.other,
            intervals=((0, replica.first.numel),),
            holders=replica.holders,
            is_spare=replica.is_spare,
        )
        for replica in held_twice
    ]


def spread(pairs: Sequence[T], most: int = SAMPLED_TENSORS) -> Sequence[T]:
    """At most so many of them, evenly spread."""
    if len(pairs) <= most:
        return pairs
    return [pairs[i * len(pairs) // most] for i in range(most)]


def both_ends(numel: int, *, everything: bool) -> tuple[tuple[int, int], ...]:
    """The intervals of a tensor's elements that are compared: all, or SAMPLED_NUMEL at its beginning and end."""
    if everything or numel <= 2 * SAMPLED_NUMEL:
        return ((0, numel),)
    return ((0, SAMPLED_NUMEL), (numel - SAMPLED_NUMEL, numel))
