"""The base class of recipes whose elements are computed from other tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from ..errors import PlanBroken

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .pieces import Copy, Recipe


class Computed(ABC):
    """A tensor with as many elements as another, `base`, computed from it and from what else the recipe names."""

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
    def is_copied(self) -> bool:
        return False

    @property
    @abstractmethod
    def input_bytes(self) -> int:
        """What is read from files."""

    @property
    @abstractmethod
    def memory_bytes(self) -> int:
        """An upper bound for the memory that evaluating it takes."""

    @property
    def block_ends(self) -> Sequence[int]:
        """The elements behind which it can be cut without computing anything twice: in ascending order, the last is
        its end."""
        return (self.numel,)

    def copies(self, start: int = 0, stop: int | None = None) -> Iterator[Copy]:
        """There are none: raises PlanBroken."""
        raise PlanBroken("the tensor is computed, it has no copies")
