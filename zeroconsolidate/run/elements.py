"""Recipes -> their elements, whole or block by block."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..dtypes import DType
from ..plan.pieces import View
from .cast import STORAGE, as_dtype, raw, to_single
from .execute import BLOCK_BYTES
from .reader import reader
from .storage import extents

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from ..archive.located import LocatedTensor
    from ..plan.pieces import Recipe
    from .inputs import Inputs
    from .storage import Extent


_QUIET_NAN = {DType.BF16: 0x7FC0, DType.F16: 0x7E00, DType.F32: 0x7FC00000, DType.F64: 0x7FF8 << 48}


def read_all(recipe: Recipe, inputs: Inputs) -> NDArray[np.generic]:
    """The whole tensor, flat, of dtype STORAGE[recipe.dtype]."""
    return read_range(recipe, 0, recipe.numel, inputs)


def read_range(recipe: Recipe, start: int, stop: int, inputs: Inputs) -> NDArray[np.generic]:
    """Elements `[start, stop)`, flat, of dtype STORAGE[recipe.dtype]. No others are read."""
    block = np.empty(stop - start, STORAGE[recipe.dtype])
    if start < stop:
        with inputs.files.expecting(extents_of(recipe, [(start, stop)])):
            reader(recipe, inputs).fill(start, stop, block)
    return block


def blocks(recipe: Recipe, intervals: Iterable[tuple[int, int]], inputs: Inputs) -> Iterator[NDArray[np.generic]]:
    """The elements in the intervals, at most BLOCK_BYTES at a time. A block is overwritten by the next."""
    elements, size = reader(recipe, inputs), BLOCK_BYTES // recipe.dtype.itemsize
    block = np.empty(min(size, recipe.numel), STORAGE[recipe.dtype])
    intervals = list(intervals)
    with inputs.files.expecting(extents_of(recipe, intervals)):
        for start, stop in intervals:
            for first in range(start, stop, size):
                last = min(first + size, stop)
                elements.fill(first, last, block[: last - first])
                yield block[: last - first]


def extents_of(recipe: Recipe, intervals: Iterable[tuple[int, int]]) -> Iterator[Extent]:
    """What is read of the inputs, for who wants to announce it."""
    for start, stop in intervals if recipe.is_copied else ():
        yield from extents(recipe.copies(start, stop))


def distinct(recipe: Recipe, most: int, inputs: Inputs) -> int:
    """How many different elements are among the first `most`, bit for bit."""
    seen = [np.unique(raw(block)) for block in blocks(recipe, [(0, min(recipe.numel, most))], inputs)]
    return len(np.unique(np.concatenate(seen))) if seen else 0


def rounded(elements: NDArray[np.generic], source: DType, target: DType) -> NDArray[np.generic]:
    """The elements in another dtype, every NaN with the same bits: no cast promises a payload."""
    out = as_dtype(elements, source, target)
    if target.is_floating:
        nan = np.isnan(to_single(out, target))
        if nan.any():
            out = out.copy()
            raw(out)[nan] = _QUIET_NAN[target]
    return out


def bits(tensor: LocatedTensor, start: int, stop: int, dtype: DType, inputs: Inputs) -> bytes:
    """Elements `[start, stop)`, rounded to `dtype`."""
    elements = blocks(View(tensor), [(start, stop)], inputs)
    return b"".join(rounded(block, tensor.dtype, dtype).tobytes() for block in elements)
