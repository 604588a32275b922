"""A recipe made of others -> the same rearrangement of what stands in their places."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import PlanBroken
from .joined import Section
from .pieces import Rows

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from .pieces import Recipe


def leaves(recipe: Recipe, known: Collection[int]) -> Iterator[Recipe]:
    """What a recipe rearranges: recipes whose `id` is `known`, and those that do something else."""
    if id(recipe) in known or not isinstance(recipe, (Rows, Section)):
        yield recipe
    elif isinstance(recipe, Section):
        yield from leaves(recipe.whole, known)
    else:
        for part in recipe.of:
            yield from leaves(part, known)


def substituted(recipe: Recipe, places: Mapping[int, Recipe]) -> Recipe:
    """The recipe with others in the places of its leaves. `places`: by `id` of the leaf, for each of them."""
    if id(recipe) in places:
        return places[id(recipe)]
    if isinstance(recipe, Rows):
        return replace(recipe, of=tuple(substituted(part, places) for part in recipe.of))
    if isinstance(recipe, Section):
        return replace(recipe, whole=substituted(recipe.whole, places))
    raise PlanBroken(f"the tensor is not only rearranged: there is nothing for a {type(recipe).__name__}")
