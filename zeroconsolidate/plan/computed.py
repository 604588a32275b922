"""What recipes have in common whose elements are computed from other tensors, and what any recipe reads and needs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from ..errors import PlanBroken
from .pieces import Rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .pieces import Copy, Recipe


class Computed(ABC):
    """What the recipes have in common whose elements are made of other tensors' and not copied."""

    __slots__ = ()

    base: Recipe
    """The weight as it was."""

    @property
    def numel(self) -> int:
        return self.base.numel

    @property
    def is_plain(self) -> bool:
        return False

    @property
    @abstractmethod
    def input_bytes(self) -> int:
        """What is read from files."""

    @property
    @abstractmethod
    def memory_bytes(self) -> int:
        """An upper bound for what evaluating it takes."""

    def copies(self, start: int = 0, stop: int | None = None) -> Iterator[Copy]:
        """There are none: raises PlanBroken."""
        raise PlanBroken("the tensor is computed, it has no copies")


def nbytes(recipe: Recipe) -> int:
    """Bytes of files that a recipe reads once through."""
    if isinstance(recipe, Computed):
        return recipe.input_bytes
    if isinstance(recipe, Rows):
        taken = [0] * len(recipe.of)
        for number, _, rows in recipe.runs:
            taken[number] += rows * recipe.row_numel
        return sum(nbytes(of) * numel // max(of.numel, 1) for of, numel in zip(recipe.of, taken, strict=True))
    return recipe.numel * recipe.dtype.itemsize


def memory_bytes(recipe: Recipe) -> int:
    """An upper bound for what evaluating a recipe takes beyond the executor's blocks; 0 for one that copies."""
    if isinstance(recipe, Computed):
        return recipe.memory_bytes
    return sum(memory_bytes(of) for of in recipe.of) if isinstance(recipe, Rows) else 0


def is_computed(recipe: Recipe) -> bool:
    """Whether some of the elements are no copies."""
    if isinstance(recipe, Rows):
        return any(map(is_computed, recipe.of))
    return isinstance(recipe, Computed)
