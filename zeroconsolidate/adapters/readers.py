"""Recipes of merged tensors -> their elements, any interval of them, one block in memory at a time.

Element by element and row by row computing only some rows changes nothing; matrix products of many rows sum in the
same order as the whole. So blocks are always the same, however they are asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from ..run.cast import STORAGE, as_dtype
from ..run.elements import read_all
from ..run.reader import reader
from ..run.tensors import to_numpy, to_torch
from .low_rank import Part, merge
from .recipes import FEWEST_ROWS, ROW_BLOCK_BYTES, Lie, Merged, RowsReplaced, Shifted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..run.inputs import Inputs


class MergedReader:
    """Reads a merged weight, block of rows by block of rows. It holds the factors of the adapters."""

    def __init__(self, recipe: Merged, inputs: Inputs) -> None:
        self.recipe = recipe
        self._base = reader(recipe.base, inputs)
        self._parts = [Part(inputs, part) for part in recipe.parts]
        self._starts = recipe.blocks()
        self._held: tuple[int, NDArray[np.generic]] | None = None
        # A DoRA row of a transposed weight is a column: its length is known only when all rows have been seen.
        self._lengths: list[torch.Tensor] | None = None
        if any(part.magnitude is not None and part.is_transposed for part in self._parts):
            self._lengths = self._column_lengths()

    @property
    def block_numel(self) -> int:
        """Elements of the largest block."""
        pairs = zip(self._starts, self._starts[1:], strict=False)
        return max(stop - start for start, stop in pairs) * self.recipe.row_numel

    def fill(self, start: int, stop: int, block: NDArray[np.generic]) -> None:
        """Elements `[start, stop)`. Always computed on the same blocks, so that no bit depends on which interval is
        asked for."""
        row_numel = self.recipe.row_numel
        here = int(np.searchsorted(self._starts, start // row_numel, side="right")) - 1
        while start < stop:
            first, last = self._starts[here] * row_numel, self._starts[here + 1] * row_numel
            elements = self._block(here)
            part = elements[start - first : min(stop, last) - first]
            block[: len(part)] = part
            block, start, here = block[len(part) :], start + len(part), here + 1

    def _block(self, index: int) -> NDArray[np.generic]:
        if self._held is None or self._held[0] != index:
            self._held = None
            first, last = self._starts[index], self._starts[index + 1]
            weight = self._rows(first, last)
            deltas = [part.delta(self.recipe, first, last) for part in self._parts]
            merged = merge(weight, deltas, self._parts, slice(first, last), known=self._lengths)
            self._held = (index, to_numpy(merged, self.recipe.dtype))
        return self._held[1]

    def _rows(self, first: int, last: int) -> torch.Tensor:
        """Rows of the base as a matrix (for a convolution, in its own shape), in the dtype of the merge."""
        row_numel, dtype = self.recipe.row_numel, self.recipe.dtype
        stored = np.empty((last - first) * row_numel, STORAGE[self.recipe.base.dtype])
        self._base.fill(first * row_numel, last * row_numel, stored)
        elements = as_dtype(stored, self.recipe.base.dtype, dtype)
        if any(part.lie is Lie.CONVOLUTION for part in self.recipe.parts):
            return to_torch(elements, dtype).reshape(self.recipe.shape)
        return to_torch(elements, dtype).reshape(last - first, row_numel)

    def _column_lengths(self) -> list[torch.Tensor]:
        """The lengths DoRA divides by, each over all rows, computed on blocks of columns."""
        rows, columns = self.recipe.rows, self.recipe.row_numel
        fitting = max(ROW_BLOCK_BYTES // (4 * rows), FEWEST_ROWS)
        count = max(columns // fitting, 1)
        found: list[list[torch.Tensor]] = []
        for i in range(count):
            taken = slice(columns * i // count, columns * (i + 1) // count)
            weight = self._columns(taken)
            deltas = [part.column_delta(taken) for part in self._parts]
            lengths: list[torch.Tensor] = []
            merge(weight, deltas, self._parts, taken, found=lengths)
            found.append(lengths)
        return [torch.cat(pieces) for pieces in zip(*found, strict=True)]

    def _columns(self, taken: slice) -> torch.Tensor:
        base, row_numel = self.recipe.base, self.recipe.row_numel
        stored = np.empty((self.recipe.rows, taken.stop - taken.start), STORAGE[base.dtype])
        for row in range(self.recipe.rows):
            self._base.fill(row * row_numel + taken.start, row * row_numel + taken.stop, stored[row])
        elements = as_dtype(stored.reshape(-1), base.dtype, self.recipe.dtype)
        return to_torch(elements, self.recipe.dtype).reshape(stored.shape)


class RowsReplacedReader:
    """Reads a matrix in which some rows come from elsewhere. Nothing is computed but casts."""

    def __init__(self, recipe: RowsReplaced, inputs: Inputs) -> None:
        self.recipe = recipe
        self._base = reader(recipe.base, inputs)
        rows: dict[int, NDArray[np.generic]] = {}
        for indices, replacement in recipe.replacements:
            values = as_dtype(read_all(replacement, inputs), replacement.dtype, recipe.dtype)
            rows |= zip(indices, values.reshape(len(indices), recipe.shape[-1]), strict=True)
        self._rows = dict(sorted(rows.items()))

    @property
    def block_numel(self) -> int | None:
        return None

    def fill(self, start: int, stop: int, block: NDArray[np.generic]) -> None:
        """Elements `[start, stop)`."""
        base, row_numel = self.recipe.base, self.recipe.shape[-1]
        stored = np.empty(stop - start, STORAGE[base.dtype])
        self._base.fill(start, stop, stored)
        block[: len(stored)] = as_dtype(stored, base.dtype, self.recipe.dtype)
        for index, row in self._rows.items():
            first, last = max(index * row_numel, start), min((index + 1) * row_numel, stop)
            if first < last:
                block[first - start : last - start] = row[first - index * row_numel : last - index * row_numel]


class ShiftedReader:
    """Reads a bias to which adapters add."""

    def __init__(self, recipe: Shifted, inputs: Inputs) -> None:
        bias = to_torch(as_dtype(read_all(recipe.base, inputs), recipe.base.dtype, recipe.dtype), recipe.dtype)
        for shift, scale in recipe.shifts:
            bias += to_torch(read_all(shift, inputs), shift.dtype) * scale
        self._values = to_numpy(bias, recipe.dtype)

    @property
    def block_numel(self) -> int | None:
        return None

    def fill(self, start: int, stop: int, block: NDArray[np.generic]) -> None:
        """Elements `[start, stop)`."""
        block[: stop - start] = self._values[start:stop]
