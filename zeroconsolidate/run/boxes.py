"""Some elements of a recipe's tensor -> these elements, reading no more of files than the runs they lie in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .cast import STORAGE
from .execute import BLOCK_BYTES
from .reader import reader

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..plan.index import Box
    from ..plan.pieces import Recipe
    from .inputs import Inputs


def read_box(recipe: Recipe, box: Box, inputs: Inputs) -> NDArray[np.generic]:
    """The elements of a box, of its result's shape and dtype STORAGE[recipe.dtype].

    Memory: the result and, where elements between those asked for are read as well, a block.
    """
    result = np.empty(box.counts, STORAGE[recipe.dtype])
    if result.size:
        outer = box.outer(BLOCK_BYTES // recipe.dtype.itemsize)
        elements, span = reader(recipe, inputs), box.span_numel(outer)
        parts = result.reshape(-1, *box.counts[outer:], 1)  # the last, for arrays also where a part is one element
        block = None if box.is_dense(outer) else np.empty(span, result.dtype)
        for part, start in zip(parts, box.starts(outer), strict=True):
            target = part.reshape(-1) if block is None else block
            elements.fill(start, start + span, target)
            if block is not None:
                steps = [pitch * block.itemsize for pitch in (*box.pitches[outer:], 1)]
                part[...] = np.lib.stride_tricks.as_strided(block, part.shape, steps)
    return result.reshape(box.result_shape)
