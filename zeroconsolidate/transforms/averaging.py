"""Tensors of several checkpoints -> their weighted mean, block by block."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..archive.phrases import counted
from ..dtypes import DType
from ..errors import Disagreement
from ..run.cast import STORAGE, to_single
from ..run.reader import reader
from .averaged import BLOCK_NUMEL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..run.inputs import Inputs
    from .averaged import Averaged


class AveragedReader:
    """Adds up in float64, in the order of the parts, and rounds once."""

    def __init__(self, recipe: Averaged, inputs: Inputs) -> None:
        pairs = zip(recipe.parts, recipe.weights, strict=True)
        self._parts = [(reader(part, inputs), part.dtype, weight) for part, weight in pairs]
        self._recipe = recipe
        self._total = np.float64(sum(recipe.weights))
        self._sums = np.empty(min(BLOCK_NUMEL, recipe.numel), np.float64)
        self._product = np.empty_like(self._sums)

        self.block_numel = next((read.block_numel for read, _, _ in self._parts if read.block_numel is not None), None)

    def fill(self, start: int, stop: int, block: NDArray[np.generic]) -> None:
        """Elements `[start, stop)`."""
        for first in range(start, stop, BLOCK_NUMEL):
            last = min(first + BLOCK_NUMEL, stop)
            self._mean(first, last, block[first - start : last - start])

    def _mean(self, start: int, stop: int, block: NDArray[np.generic]) -> None:
        sums, product = self._sums[: stop - start], self._product[: stop - start]
        # A finite value may become infinite when it is rounded, which whoever writes it counts.
        with np.errstate(over="ignore", invalid="ignore"):
            for number, (read, dtype, weight) in enumerate(self._parts):
                held = np.empty(stop - start, STORAGE[dtype])
                read.fill(start, stop, held)
                values = held if dtype is DType.F64 else to_single(held, dtype)
                np.multiply(values, np.float64(weight), out=product if number else sums, dtype=np.float64)
                if number:
                    np.add(sums, product, out=sums)
            np.divide(sums, self._total, out=sums)
            if not np.isfinite(sums).all():
                self._refuse_odd(start, stop)
            block[...] = sums

    def _refuse_odd(self, start: int, stop: int) -> None:
        """Raises Disagreement if a value is NaN or infinite in some of the parts, and a number in others: the mean
        would be what it is there, whatever the others say."""
        held = np.empty((len(self._parts), stop - start), np.bool_)
        for (read, dtype, _), odd in zip(self._parts, held, strict=True):
            values = np.empty(stop - start, STORAGE[dtype])
            read.fill(start, stop, values)
            np.logical_not(np.isfinite(values if dtype is DType.F64 else to_single(values, dtype)), out=odd)
        alone = held & ~held.all(axis=0)
        counts = np.count_nonzero(alone, axis=1)
        if not counts.any():
            return
        worst = int(counts.argmax())
        part = self._recipe.parts[worst]
        at_element = start + int(alone[worst].argmax())
        file = next(part.copies(at_element, at_element + 1)).file if part.is_copied else None
        raise Disagreement(
            f"{counted(int(counts[worst]), 'value')} {'is' if counts[worst] == 1 else 'are'} not finite in checkpoint "
            f"{worst + 1} of {len(counts)}, and numbers in others",
            consequence="no mean of them is a number",
            remedy="take the mean of the other checkpoints",
            address=() if file is None else (file,),
        )
