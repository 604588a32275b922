"""A recipe of copies -> its elements, in the caller's block."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..plan.pieces import ZEROS
from .cast import STORAGE, cast

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..plan.pieces import Copy, Recipe
    from .storage import Readable


class CopyReader:
    """Reads a tensor that is copied."""

    block_numel = None

    def __init__(self, recipe: Recipe, files: Readable) -> None:
        self._recipe, self._files = recipe, files

    def fill(self, start: int, stop: int, block: NDArray[np.generic]) -> None:
        """Elements `[start, stop)`."""
        dtype = self._recipe.dtype
        for copy in self._recipe.copies(start, stop):
            target = block[copy.start - start :]
            if copy.dtype is dtype:
                self._place(copy, target)
            else:
                # The runs are read side by side and spread when they are cast.
                elements = np.empty(copy.numel, STORAGE[copy.dtype])
                self._place(replace(copy, step=copy.run_numel), elements)
                runs = _runs(target, copy.count, copy.run_numel, copy.step)
                cast(elements.reshape(runs.shape), copy.dtype, dtype, runs)

    def _place(self, copy: Copy, elements: NDArray[np.generic]) -> None:
        """The elements of one copy, from position 0 of `elements` on."""
        if copy.count == 1:
            target = elements[: copy.run_numel]
            if copy.file == ZEROS:
                target[...] = 0
            else:
                self._files.read_into(copy.file, copy.file_start, target.view(np.uint8).data)
        else:
            target = _runs(elements, copy.count, copy.run_numel, copy.step)
            target[...] = 0 if copy.file == ZEROS else self._file_runs(copy)
        if copy.big_endian:
            target[...] = target.byteswap()

    def _file_runs(self, copy: Copy) -> NDArray[np.generic]:
        """The runs of a strided copy, [count, run_numel]."""
        packed = np.empty((copy.count, copy.run_numel), STORAGE[copy.dtype])
        buffer = packed.reshape(-1).view(np.uint8).data
        if copy.file_step == copy.run_numel:
            self._files.read_into(copy.file, copy.file_start, buffer)
        else:
            itemsize = copy.dtype.itemsize
            self._files.read_runs(
                copy.file,
                copy.file_start,
                run_bytes=copy.run_numel * itemsize,
                step_bytes=copy.file_step * itemsize,
                count=copy.count,
                buffer=buffer,
            )
        return packed


def _runs(elements: NDArray[np.generic], count: int, run_numel: int, step: int) -> NDArray[np.generic]:
    item = elements.itemsize
    runs: NDArray[np.generic] = np.lib.stride_tricks.as_strided(elements, (count, run_numel), (step * item, item))
    return runs
