"""A recipe that is not the package's, with its reader: what tests plug in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from zeroconsolidate.plan.computed import Computed
from zeroconsolidate.run.reader import reader

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zeroconsolidate.dtypes import DType
    from zeroconsolidate.plan.pieces import Recipe
    from zeroconsolidate.run.inputs import Inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled(Computed):
    """A tensor times a number."""

    base: Recipe
    factor: float

    @property
    def dtype(self) -> DType:
        return self.base.dtype

    @property
    def input_bytes(self) -> int:
        return self.base.input_bytes

    @property
    def memory_bytes(self) -> int:
        return self.base.memory_bytes


class ScaledReader:
    block_numel = None

    def __init__(self, recipe: Scaled, inputs: Inputs) -> None:
        self._base, self._factor = reader(recipe.base, inputs), np.float32(recipe.factor)

    def fill(self, start: int, stop: int, block: NDArray[np.float32]) -> None:
        self._base.fill(start, stop, block)
        block[: stop - start] *= self._factor


reader.register(Scaled, ScaledReader)
