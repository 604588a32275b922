"""A recipe -> the reader of its elements.

A recipe's type brings its reader along: whoever adds a recipe registers a function with `reader.register(Type)`, in a
module that is always imported with it (see `registered.py`). A recipe whose elements are copies needs none. Nothing
heavy is imported here: each function imports what it needs when it is called.
"""

from __future__ import annotations

from functools import singledispatch
from typing import TYPE_CHECKING, Protocol

from ..errors import PlanBroken

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..plan.pieces import Recipe
    from .inputs import Inputs


class Reader(Protocol):
    """Yields a tensor's elements, copied from files or computed."""

    @property
    def block_numel(self) -> int | None:
        """The size of blocks it is best asked for; None if it makes no difference."""

    def fill(self, start: int, stop: int, block: NDArray[np.generic]) -> None:
        """Elements `[start, stop)` into the beginning of `block`, 1-D, of dtype STORAGE[recipe.dtype]."""


@singledispatch
def reader(recipe: Recipe, inputs: Inputs) -> Reader:
    """What reads a recipe's tensor. One that computes holds what it needs for as long as it lives.

    Raises PlanBroken for a recipe that is not copied and has no reader.
    """
    return copying(recipe, inputs)


def copying(recipe: Recipe, inputs: Inputs) -> Reader:
    """What reads the copies of a recipe. Raises PlanBroken if they are not its elements."""
    if not recipe.is_copied:
        raise PlanBroken(f"the tensor is not a copy, and no reader is registered for {type(recipe).__name__}")
    from .fill import CopyReader

    return CopyReader(recipe, inputs.files)
