"""A recipe made of others -> the same rearrangement of what stands in their places."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from .joined import Section
from .pieces import Rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .pieces import Recipe


def leaves(recipe: Recipe) -> Iterator[Recipe]:
    """What a recipe only rearranges; the recipe itself, if it does something else."""
    if isinstance(recipe, Rows):
        for part in recipe.of:
            yield from leaves(part)
    elif isinstance(recipe, Section):
        yield from leaves(recipe.whole)
    else:
        yield recipe


def substituted(recipe: Recipe, places: Mapping[int, Recipe]) -> Recipe:
    """The recipe with others in the places of its leaves. `places`: by `id` of the leaf, for each of them."""
    if isinstance(recipe, Rows):
        return replace(recipe, of=tuple(substituted(part, places) for part in recipe.of))
    if isinstance(recipe, Section):
        return replace(recipe, whole=substituted(recipe.whole, places))
    return places[id(recipe)]
