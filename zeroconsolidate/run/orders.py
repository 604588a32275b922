"""Two tensors that differ -> whether one has the other's elements in another order.

Bits are hashed, not compared: a chance of about one in 2**64 remains that two sets of elements only seem to be the
same. It decides a sentence of a report, and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from .cast import STORAGE, as_dtype, raw
from .reader import reader

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ..dtypes import DType
    from ..plan.pieces import Recipe
    from .inputs import Inputs

    Hashes = NDArray[np.uint64]

MAX_ROWS = 1 << 22
"""The rows of larger matrices are not hashed: 8 bytes each are held."""
_BLOCK_NUMEL = 1 << 16


def other_order(
    a: Recipe, b: Recipe, inputs: Inputs, *, rows: int, progress: Callable[[int], None]
) -> Literal["rows", "elements"] | None:
    """Whether `b` has the same rows as `a` in another order, or at least the same elements.

    Both have the same number of elements, `rows` of them equally long. The wider dtype is rounded to the narrower.
    """
    dtype = min(a.dtype, b.dtype, key=lambda each: each.itemsize)
    if a.dtype is not b.dtype and not (a.dtype.is_floating and b.dtype.is_floating):
        return None
    rows = rows if 1 < rows <= MAX_ROWS else 1
    ours, theirs = (_hashes(recipe, dtype, rows, inputs, progress) for recipe in (a, b))
    if rows > 1 and np.array_equal(np.sort(ours[0]), np.sort(theirs[0])):
        return "rows"
    return "elements" if ours[1] == theirs[1] else None


def _hashes(
    recipe: Recipe, dtype: DType, rows: int, inputs: Inputs, progress: Callable[[int], None]
) -> tuple[Hashes, int]:
    """A hash of each row, in which the order of its elements counts; and one of all elements, in which it does not."""
    row_numel, elements = recipe.numel // rows, reader(recipe, inputs)
    by_row, of_all = np.zeros(rows, np.uint64), 0
    step = elements.block_numel or _BLOCK_NUMEL
    for start in range(0, recipe.numel, step):
        stop = min(start + step, recipe.numel)
        block = np.empty(stop - start, STORAGE[recipe.dtype])
        elements.fill(start, stop, block)
        bits = raw(as_dtype(block, recipe.dtype, dtype)).astype(np.uint64)
        of_all = (of_all + int(_mixed(bits).sum(dtype=np.uint64))) & _MASK
        place = np.arange(start, stop, dtype=np.uint64) % np.uint64(row_numel)
        placed = _mixed(bits ^ _mixed(place + np.uint64(1)))
        first, last = start // row_numel, (stop - 1) // row_numel
        begins = np.maximum(np.arange(first, last + 1) * row_numel - start, 0)
        by_row[first : last + 1] += np.add.reduceat(placed, begins)
        progress((stop - start) * recipe.dtype.itemsize)
    return by_row, of_all


_MASK = (1 << 64) - 1


def _mixed(bits: Hashes) -> Hashes:
    """Each number with its bits mixed, by multiplications modulo 2**64 with odd numbers and shifts: one to one."""
    mixed: Hashes = bits ^ (bits >> np.uint64(31))
    mixed *= np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xD6E8FEB86659FD93)
    mixed ^= mixed >> np.uint64(32)
    return mixed
