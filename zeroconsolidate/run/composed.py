"""Recipes made of computed tensors -> their elements."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import PlanBroken
from .reader import reader

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..plan.joined import Mean, Section
    from ..plan.pieces import Recipe, Rows
    from .inputs import Inputs
    from .reader import Reader


class SectionReader:
    """Reads consecutive elements of another tensor."""

    block_numel = None

    def __init__(self, recipe: Section, inputs: Inputs) -> None:
        self._first, self._whole = recipe.first, reader(recipe.whole, inputs)

    def fill(self, start: int, stop: int, block: NDArray[np.generic]) -> None:
        """Elements `[start, stop)`."""
        self._whole.fill(self._first + start, self._first + stop, block)


class MeanReader:
    """Sums in the order of the parts, then divides, all in the parts' own dtype: as DeepSpeed does it, bit for bit."""

    block_numel = None

    def __init__(self, recipe: Mean, inputs: Inputs) -> None:
        self._parts = [reader(part, inputs) for part in recipe.parts]

    def fill(self, start: int, stop: int, block: NDArray[np.generic]) -> None:
        """Elements `[start, stop)`."""
        block = block[: stop - start]
        self._parts[0].fill(start, stop, block)
        other = np.empty_like(block)
        for part in self._parts[1:]:
            part.fill(start, stop, other)
            np.add(block, other, out=block)
        np.divide(block, block.dtype.type(len(self._parts)), out=block)


class RowsReader:
    """Reads rows of several tensors, some of which are computed."""

    block_numel = None

    def __init__(self, recipe: Rows, inputs: Inputs) -> None:
        self._recipe = recipe
        if len({of.dtype for of in recipe.of}) > 1:
            raise PlanBroken("rows of computed tensors are of one dtype")
        last = inputs.resource(_LastReaders, _LastReaders)
        self._of = [last.get(of, inputs) for of in recipe.of]

    def fill(self, start: int, stop: int, block: NDArray[np.generic]) -> None:
        """Elements `[start, stop)`."""
        here = 0
        for number, first_row, rows in self._recipe.runs:
            upto = here + rows * self._recipe.row_numel
            first, last = max(start, here), min(stop, upto)
            if first < last:
                moved = first_row * self._recipe.row_numel - here
                self._of[number].fill(first + moved, last + moved, block[first - start : last - start])
            here = upto


class _LastReaders:
    """The last two readers of tensors whose rows are asked for one by one (an expert at a time): each is made once,
    not once for every expert."""

    def __init__(self) -> None:
        self._kept: list[tuple[Recipe, Reader]] = []

    def get(self, recipe: Recipe, inputs: Inputs) -> Reader:
        for known, kept in self._kept:
            if known is recipe:
                return kept
        made = reader(recipe, inputs)
        self._kept = [*self._kept[-1:], (recipe, made)]
        return made

    def close(self) -> None:
        self._kept = []
