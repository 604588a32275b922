"""A recipe -> where the elements it is made of begin: what tells two plans apart whose outputs look alike.

Names, shapes and dtypes say nothing of which tensor is written under which name, or of the order in which several are
added up. Every copy of a recipe follows from its beginning by arithmetic, so the beginning is enough.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .pieces import Recipe


def begins(recipe: Recipe) -> Iterator[tuple[str, int] | float]:
    """(file, byte) of the first element of every tensor that a recipe reads, and the numbers that it computes with, in
    its own order."""
    if recipe.is_copied:
        for copy in recipe.copies(0, min(recipe.numel, 1)):
            yield copy.file, copy.file_start
        return
    yield from _inside(recipe)


def _inside(value: object) -> Iterator[tuple[str, int] | float]:
    """Those of whatever a recipe holds: other recipes, and records and tuples of them."""
    if isinstance(value, (int, float)):
        yield value
    elif isinstance(value, tuple):
        for each in value:
            yield from _of(each)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _of(getattr(value, field.name))


def _of(value: object) -> Iterator[tuple[str, int] | float]:
    if hasattr(value, "is_copied"):
        yield from begins(cast("Recipe", value))
    else:
        yield from _inside(value)
