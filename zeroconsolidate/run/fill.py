"""Fills a block with elements of a tensor, whatever copies it is made of."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..plan.joined import Mean, Section
from .cast import STORAGE, cast

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..plan.pieces import Copy, Recipe
    from .inputs import Inputs


def fill(inputs: Inputs, recipe: Recipe, start: int, stop: int, block: NDArray[np.generic]) -> None:
    """Elements `[start, stop)` of the recipe's tensor into `block`, 1-D, of dtype STORAGE[recipe.dtype]."""
    if isinstance(recipe, Section):
        fill(inputs, recipe.whole, recipe.first + start, recipe.first + stop, block)
        return
    if isinstance(recipe, Mean):
        _fill_mean(inputs, recipe, start, stop, block)
        return
    for copy in recipe.copies(start, stop):
        target = block[copy.start - start :]
        if copy.dtype is recipe.dtype:
            _place(inputs, copy, target)
        else:
            # The runs are read side by side and spread when they are cast.
            elements = np.empty(copy.numel, STORAGE[copy.dtype])
            _place(inputs, replace(copy, step=copy.run_numel), elements)
            runs = _runs(target, copy.count, copy.run_numel, copy.step)
            cast(elements.reshape(runs.shape), copy.dtype, recipe.dtype, runs)


def _place(inputs: Inputs, copy: Copy, elements: NDArray[np.generic]) -> None:
    """The elements of one copy, from position 0 of `elements` on."""
    if copy.count == 1:
        target = elements[: copy.run_numel]
        inputs.read_into(copy.file, copy.file_start, target.view(np.uint8).data)
    else:
        target = _runs(elements, copy.count, copy.run_numel, copy.step)
        target[...] = _file_runs(inputs, copy)
    if copy.big_endian:
        target[...] = target.byteswap()


def _fill_mean(inputs: Inputs, mean: Mean, start: int, stop: int, block: NDArray[np.generic]) -> None:
    """Sum in the order of the parts, then divide, all in the parts' own dtype: as DeepSpeed does it, bit for bit."""
    fill(inputs, mean.parts[0], start, stop, block)
    other = np.empty_like(block)
    for part in mean.parts[1:]:
        fill(inputs, part, start, stop, other)
        np.add(block, other, out=block)
    np.divide(block, block.dtype.type(len(mean.parts)), out=block)


def read_all(inputs: Inputs, recipe: Recipe) -> NDArray[np.generic]:
    """The whole tensor, flat, of dtype STORAGE[recipe.dtype]."""
    block = np.empty(recipe.numel, STORAGE[recipe.dtype])
    fill(inputs, recipe, 0, recipe.numel, block)
    return block


def _runs(elements: NDArray[np.generic], count: int, run_numel: int, step: int) -> NDArray[np.generic]:
    item = elements.itemsize
    runs: NDArray[np.generic] = np.lib.stride_tricks.as_strided(elements, (count, run_numel), (step * item, item))
    return runs


def _file_runs(inputs: Inputs, copy: Copy) -> NDArray[np.generic]:
    """The runs of a strided copy, [count, run_numel]."""
    dtype = STORAGE[copy.dtype]
    if copy.file_step == copy.run_numel:
        packed = np.empty((copy.count, copy.run_numel), dtype)
        inputs.read_into(copy.file, copy.file_start, packed.reshape(-1).view(np.uint8).data)
        return packed
    span_bytes = ((copy.count - 1) * copy.file_step + copy.run_numel) * copy.dtype.itemsize
    mapped, skipped = inputs.map(copy.file, copy.file_start, span_bytes)
    elements: NDArray[np.generic] = np.frombuffer(mapped, dtype, count=span_bytes // dtype.itemsize, offset=skipped)
    runs = _runs(elements, copy.count, copy.run_numel, copy.file_step)
    return np.array(runs)
