"""Numbers of 8 bits and scales -> the weights that they stand for, block of rows by block of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..run.cast import STORAGE, to_single
from ..run.reader import reader
from .dequantized import NUMBERS_A_WORD

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..run.inputs import Inputs
    from .dequantized import Dequantized

    Floats = NDArray[np.float32]

_ZERO = np.float32(128)
"""What a number of 8 bits that is packed in a word is above its value
(`compressed_tensors/compressors/pack_quantized/helpers.py`, `unpack_from_int32`)."""


class DequantizedReader:
    """Reads the weight that numbers and scales stand for. Whole rows are computed, whichever elements are asked for."""

    def __init__(self, recipe: Dequantized, inputs: Inputs) -> None:
        self.recipe = recipe
        self._numbers, self._scales = reader(recipe.base, inputs), reader(recipe.scales, inputs)

    @property
    def block_numel(self) -> int:
        """Of as many rows as are computed at a time."""
        return max(self.recipe.fitting_rows * self.recipe.columns, 1)

    def fill(self, start: int, stop: int, block: NDArray[np.generic]) -> None:
        """Elements `[start, stop)`."""
        columns, fitting = self.recipe.columns, self.recipe.fitting_rows
        first = start // max(columns, 1)
        while first * columns < stop:
            last = min(first + fitting, -(-stop // columns))
            made = self._made(first, last).reshape(-1)
            here, there = max(start, first * columns), min(stop, last * columns)
            block[here - start : there - start] = made[here - first * columns : there - first * columns]
            first = last

    def _made(self, first: int, last: int) -> Floats:
        """Rows `[first, last)`."""
        rows = self._rows_of_numbers(first, last)
        with np.errstate(over="ignore", invalid="ignore"):  # a scale that is not finite is the model's own
            rows *= self._scales_of(first, last)
        return rows

    def _rows_of_numbers(self, first: int, last: int) -> Floats:
        recipe = self.recipe
        width = -(-recipe.columns // NUMBERS_A_WORD) if recipe.is_packed else recipe.columns
        stored = np.empty((last - first) * width, STORAGE[recipe.base.dtype])
        self._numbers.fill(first * width, last * width, stored)
        if not recipe.is_packed:
            return to_single(stored, recipe.base.dtype).reshape(last - first, width)
        words = stored.view(np.uint8).reshape(last - first, NUMBERS_A_WORD * width)  # the first in the lowest bits
        rows: Floats = words[:, : recipe.columns].astype(np.float32)
        rows -= _ZERO
        return rows

    def _scales_of(self, first: int, last: int) -> Floats:
        """Of rows `[first, last)`: [rows, columns], or [rows, 1] if a row has one scale."""
        recipe = self.recipe
        high, wide = recipe.block
        width = -(-recipe.columns // wide)
        top, end = first // high, -(-last // high)
        stored = np.empty((end - top) * width, STORAGE[recipe.scales.dtype])
        self._scales.fill(top * width, end * width, stored)
        scales: Floats = to_single(stored, recipe.scales.dtype).reshape(end - top, width)
        scales = scales[np.arange(first, last) // high - top]
        if width > 1:
            scales = np.repeat(scales, wide, axis=1)[:, : recipe.columns]
        return scales
