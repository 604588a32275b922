"""Fills a block with elements of a tensor, whatever copies it is made of."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..adapters.recipes import Merged, OfModule, RowsReplaced, Shifted
from ..plan.computed import is_computed
from ..plan.joined import Mean, Section
from ..plan.pieces import Rows
from .cast import STORAGE, cast

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..plan.pieces import Copy, Recipe
    from .inputs import Inputs


class Reader(Protocol):
    """Yields a tensor's elements, copied from files or computed."""

    @property
    def block_numel(self) -> int | None:
        """The size of blocks it is best asked for; None if it makes no difference."""

    def fill(self, start: int, stop: int, block: NDArray[np.generic]) -> None:
        """Elements `[start, stop)` into the beginning of `block`, 1-D, of dtype STORAGE[recipe.dtype]."""


def reader(inputs: Inputs, recipe: Recipe) -> Reader:
    """What reads a recipe's tensor. One that computes holds what it needs for as long as it lives."""
    if isinstance(recipe, Rows) and is_computed(recipe):
        return _Gathered(inputs, recipe)
    if isinstance(recipe, OfModule):
        from ..adapters.by_peft import OfModuleReader

        return OfModuleReader(inputs, recipe)
    if isinstance(recipe, (Merged, RowsReplaced, Shifted)):
        # Torch's second of start-up is paid by those who merge.
        from ..adapters import readers as merge

        if isinstance(recipe, Merged):
            return merge.MergedReader(inputs, recipe)
        if isinstance(recipe, RowsReplaced):
            return merge.RowsReplacedReader(inputs, recipe)
        return merge.ShiftedReader(inputs, recipe)
    return _Copied(inputs, recipe)


class _Copied:
    block_numel = None

    def __init__(self, inputs: Inputs, recipe: Recipe) -> None:
        self._inputs, self._recipe = inputs, recipe

    def fill(self, start: int, stop: int, block: NDArray[np.generic]) -> None:
        fill(self._inputs, self._recipe, start, stop, block)


class _Gathered:
    """Rows of tensors some of which are computed."""

    block_numel = None

    def __init__(self, inputs: Inputs, recipe: Rows) -> None:
        self._recipe = recipe
        self._readers = [_shared(inputs, of) for of in recipe.of]

    def fill(self, start: int, stop: int, block: NDArray[np.generic]) -> None:
        here = 0
        for number, first_row, rows in self._recipe.runs:
            upto = here + rows * self._recipe.row_numel
            first, last = max(start, here), min(stop, upto)
            if first < last:
                moved = first_row * self._recipe.row_numel - here
                self._readers[number].fill(first + moved, last + moved, block[first - start : last - start])
            here = upto


def _shared(inputs: Inputs, recipe: Recipe) -> Reader:
    """The reader of a tensor whose parts are asked for one by one (an expert at a time): made once, not each time."""
    for known, kept in inputs.readers:
        if known is recipe:
            return kept
    made = reader(inputs, recipe)
    inputs.readers = [*inputs.readers[-1:], (recipe, made)]
    return made


def fill(inputs: Inputs, recipe: Recipe, start: int, stop: int, block: NDArray[np.generic]) -> None:
    """Elements `[start, stop)` of a tensor that is copied into `block`, 1-D, of dtype STORAGE[recipe.dtype]."""
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
    if recipe.numel:
        reader(inputs, recipe).fill(0, recipe.numel, block)
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
