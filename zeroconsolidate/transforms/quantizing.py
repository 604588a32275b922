"""Weights -> numbers of 8 bits and their scales, bit for bit as the libraries of the formats compute them.

Each line of arithmetic has the operands, the order and the float32 of the one that it mirrors:
`compressed_tensors/quantization/utils/helpers.py`, `calculate_qparams`, and `lifecycle/forward_helpers.py`,
`_quantize`, for scales of rows; `transformers/integrations/finegrained_fp8.py`, `Fp8Quantize`, for scales of blocks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import BadOption
from ..run.cast import STORAGE, to_single
from ..run.e4m3 import LARGEST, to_e4m3
from ..run.reader import reader
from .quantized import BLOCK_SIDE, Scheme

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..run.inputs import Inputs
    from .quantized import Listed, Quantized, Scales

    Floats = NDArray[np.float32]

_SMALLEST = np.float32(2.0**-23)
"""The scale of a row of zeros: float32's epsilon, as in `calculate_qparams`."""
_HALF_RANGE = {Scheme.FP8: np.float32(LARGEST), Scheme.INT8: np.float32(127.5)}
"""Half of the distance from the least to the largest number."""


class _Rows:
    """Reads rows of the weight, some at a time."""

    def __init__(self, recipe: Quantized | Scales, inputs: Inputs) -> None:
        self.recipe = recipe
        self._base = reader(recipe.base, inputs)
        self._dtype = recipe.base.dtype
        self._memory = np.empty(min(recipe.fitting_rows, recipe.rows) * recipe.columns, STORAGE[self._dtype])

    def read(self, first: int, last: int) -> Floats:
        """Rows `[first, last)` in float32, at most as many as fit; the next that are read may take their memory."""
        columns = self.recipe.columns
        stored = self._memory[: (last - first) * columns]
        self._base.fill(first * columns, last * columns, stored)
        return to_single(stored, self._dtype).reshape(last - first, columns)


def _magnitudes(rows: Floats) -> Floats:
    """The largest magnitude of each row, [n, 1]. Raises BadOption if a value is not finite."""
    found = np.maximum(rows.max(axis=1, keepdims=True, initial=0), -rows.min(axis=1, keepdims=True, initial=0))
    if not np.isfinite(found).all():
        raise BadOption(
            "NaN and infinity cannot be quantized", remedy="leave the tensor as it is with --quantize-skip NAME"
        )
    result: Floats = found
    return result


def _scales(rows: Floats, scheme: Scheme) -> Floats:
    """The scale of each row, [n, 1]."""
    scales: Floats = _magnitudes(rows) / _HALF_RANGE[scheme]
    scales[scales == 0] = _SMALLEST
    return scales


def _block_factors(rows: Floats) -> tuple[Floats, Floats]:
    """(448 over the largest magnitude of each block, its reciprocal), [1, blocks], of rows that are one block high."""
    columns = rows.shape[1]
    edges = np.arange(0, columns, BLOCK_SIDE)
    largest = np.maximum.reduceat(np.maximum(rows.max(axis=0), -rows.min(axis=0)), edges)[None]
    _magnitudes(largest)
    # torch divides a number by a tensor as the tensor's reciprocal times the number, which is rounded twice.
    with np.errstate(divide="ignore", over="ignore"):
        factors = np.float32(1) / np.where(largest > 0, largest, np.float32(1)) * np.float32(LARGEST)
    factors = np.where(largest > 0, factors, np.float32(1))
    if not np.isfinite(factors).all():
        raise BadOption(
            "a block of numbers that are all below 1e-36 cannot be quantized",
            remedy="leave the tensor as it is with --quantize-skip NAME",
        )
    return factors, np.float32(1) / factors


class QuantizedReader:
    """Reads a weight as numbers of 8 bits. Whole rows are read, whichever elements are asked for."""

    def __init__(self, recipe: Quantized, inputs: Inputs) -> None:
        self.recipe, self._rows = recipe, _Rows(recipe, inputs)

    @property
    def block_numel(self) -> int:
        """Of as many rows as are read at a time."""
        return max(self.recipe.fitting_rows * self.recipe.width, 1)

    def fill(self, start: int, stop: int, block: NDArray[np.generic]) -> None:
        """Elements `[start, stop)`."""
        width, fitting = self.recipe.width, self.recipe.fitting_rows
        # Blocks of rows that share scales begin at the same rows, however they are asked for.
        together = self.recipe.scheme.rows_together
        first = start // width // together * together
        while first * width < stop:
            last = min(first + fitting, self.recipe.rows)
            made = self._made(first, last).reshape(-1)
            here, there = max(start, first * width), min(stop, last * width)
            block[here - start : there - start] = made[here - first * width : there - first * width]
            first = last

    def _made(self, first: int, last: int) -> NDArray[np.generic]:
        rows = self._rows.read(first, last)
        if self.recipe.scheme is Scheme.INT8:
            return self._packed(rows)
        if self.recipe.scheme is Scheme.FP8:
            np.divide(rows, _scales(rows, Scheme.FP8), out=rows)
        else:
            columns = rows.shape[1]
            for top in range(0, len(rows), BLOCK_SIDE):
                part = rows[top : top + BLOCK_SIDE]
                part *= np.repeat(_block_factors(part)[0], BLOCK_SIDE, axis=1)[:, :columns]
        np.clip(rows, np.float32(-LARGEST), np.float32(LARGEST), out=rows)
        out = np.empty(rows.size, np.uint8)
        to_e4m3(rows.reshape(-1), out)
        return out

    def _packed(self, rows: Floats) -> NDArray[np.generic]:
        """Each number is written as it is above -128; the first is in the lowest bits of its word, and the last word
        of a row is filled up with zeros (`compressed_tensors/compressors/pack_quantized/helpers.py`)."""
        np.divide(rows, _scales(rows, Scheme.INT8), out=rows)
        np.clip(rows, np.float32(-128), np.float32(127), out=rows)
        np.rint(rows, out=rows)
        rows += np.float32(128)
        words = np.zeros((len(rows), 4 * self.recipe.width), np.uint8)
        words[:, : self.recipe.columns] = rows
        return words.view("<i4")


class ScalesReader:
    """Reads the scales of a weight."""

    block_numel = None

    def __init__(self, recipe: Scales, inputs: Inputs) -> None:
        self.recipe, self._rows = recipe, _Rows(recipe, inputs)

    def fill(self, start: int, stop: int, block: NDArray[np.generic]) -> None:
        """Elements `[start, stop)`."""
        recipe = self.recipe
        together, width = recipe.scheme.rows_together, recipe.width
        first = start // width * together
        while -(-first // together) * width < stop:
            last = min(first + recipe.fitting_rows, recipe.rows)
            rows = self._rows.read(first, last)
            if recipe.scheme is Scheme.FP8_BLOCK:
                tops = range(0, len(rows), BLOCK_SIDE)
                made = np.concatenate([_block_factors(rows[top : top + BLOCK_SIDE])[1] for top in tops]).reshape(-1)
            else:
                made = _scales(rows, recipe.scheme).reshape(-1)
            begin = first // together * width
            here, there = max(start, begin), min(stop, begin + len(made))
            block[here - start : there - start] = made[here - begin : there - begin]
            first = last


class ListedReader:
    """Reads numbers that the plan knows."""

    block_numel = None

    def __init__(self, recipe: Listed, inputs: Inputs) -> None:
        self._values = np.array(recipe.values, "<i8")

    def fill(self, start: int, stop: int, block: NDArray[np.generic]) -> None:
        """Elements `[start, stop)`."""
        block[: stop - start] = self._values[start:stop]
