"""Elements of tensors, whole or block by block, and their bits after rounding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..dtypes import DType
from ..plan.pieces import View
from .cast import STORAGE, cast
from .execute import BLOCK_BYTES
from .reader import reader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from ..archive.located import LocatedTensor
    from ..plan.pieces import Recipe
    from .inputs import Inputs


_QUIET_NAN = {DType.BF16: 0x7FC0, DType.F16: 0x7E00, DType.F32: 0x7FC00000, DType.F64: 0x7FF8 << 48}


def read_all(recipe: Recipe, inputs: Inputs) -> NDArray[np.generic]:
    """The whole tensor, flat, of dtype STORAGE[recipe.dtype]."""
    block = np.empty(recipe.numel, STORAGE[recipe.dtype])
    if recipe.numel:
        reader(recipe, inputs).fill(0, recipe.numel, block)
    return block


def blocks(tensor: LocatedTensor, intervals: list[tuple[int, int]], inputs: Inputs) -> Iterator[NDArray[np.generic]]:
    """The elements in the intervals, at most BLOCK_BYTES at a time."""
    elements, size = reader(View(tensor), inputs), BLOCK_BYTES // tensor.dtype.itemsize
    for start, stop in intervals:
        for first in range(start, stop, size):
            last = min(first + size, stop)
            block = np.empty(last - first, STORAGE[tensor.dtype])
            elements.fill(first, last, block)
            yield block


def rounded(elements: NDArray[np.generic], source: DType, target: DType) -> NDArray[np.generic]:
    """The elements in another dtype, every NaN with the same bits: no cast promises a payload."""
    out = np.empty(len(elements), STORAGE[target])
    cast(elements, source, target, out)
    if target.is_floating:
        single = np.empty(len(out), np.float32)
        cast(out, target, DType.F32, single)
        nan = np.isnan(single)
        if nan.any():
            out.view(np.dtype(f"u{out.itemsize}"))[nan] = _QUIET_NAN[target]
    return out


def bits(tensor: LocatedTensor, start: int, stop: int, dtype: DType, inputs: Inputs) -> bytes:
    """Elements `[start, stop)`, rounded to `dtype`."""
    return b"".join(rounded(block, tensor.dtype, dtype).tobytes() for block in blocks(tensor, [(start, stop)], inputs))
