"""A second check of a module that PEFT merges: its outputs while the adapter is not merged.

A linear module is what it does to unit vectors. PEFT's `forward` and its `merge` are different code for every kind of
adapter; both must tell the same weight.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...adapters.by_peft import Peft
from ...adapters.recipes import Factor, ModuleJob, ModuleTensor
from ...errors import UnsupportedLayout
from ...plan.pieces import View
from .merged_tensor import rows_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ...catalog.facts import Shape
    from ...plan.pieces import Recipe
    from ...run.inputs import Inputs
    from .merged_tensor import MergedTensor

    Floats = NDArray[np.float64]

MOST_VECTORS = 8
BLOCK_NUMEL = 1 << 18
MOST_NUMEL = 1 << 26
"""A larger weight would take long to answer."""


class Prober:
    """Keeps the process in which PEFT answers. It ends with :meth:`close`."""

    def __init__(self) -> None:
        self._peft: Peft | None = None

    def close(self) -> None:
        """End the process."""
        if self._peft is not None:
            self._peft.close()

    def probed(self, merge: MergedTensor, inputs: Inputs) -> tuple[Floats, Floats, Floats] | None:
        """(what was written, what PEFT answers, what the base had there), one row for each unit vector; None if the
        module is of a kind that cannot be checked in this way."""
        shape = merge.written.shape
        if (
            merge.parameter != "weight"
            or len(shape) != 2
            or merge.written.numel > MOST_NUMEL
            or len(merge.adapters) > 1
        ):
            return None
        ((adapter, held),) = merge.adapters.items()
        tensors: list[tuple[str, Recipe, Shape]] = [
            (f"base_layer.{name}", recipe, shape if name == "weight" else (recipe.numel,))
            for name, recipe in merge.base.items()
        ]
        for key, source in held.items():
            attribute, dot, rest = key.partition(".")
            tensors.append((f"{attribute}.{adapter}{dot}{rest}", source.recipe, source.shape))
        job = ModuleJob(
            kind=str(merge.configs[adapter]["peft_type"]),
            module=merge.module,
            tensors=tuple(
                ModuleTensor(name=name, factor=Factor(recipe=recipe, shape=its)) for name, recipe, its in tensors
            ),
            setting=(*merge.settings[adapter], adapter, "float32"),
        )
        if self._peft is None:
            self._peft = Peft(job)
        try:
            answers = self._peft.answers(job, inputs, MOST_VECTORS)
        except UnsupportedLayout:
            self._peft.close()
            self._peft = None
            return None  # that it merges it has shown
        axis, numbers = next(((name, found) for name, found in answers.items() if name != "answers"), ("", None))
        if numbers is None:
            return None
        taken = [int(number) for number in numbers]
        expected = answers["answers"].astype(np.float64).reshape(len(taken), -1)
        written, base = (
            _along(recipe, shape, taken, axis, inputs) for recipe in (View(merge.written), merge.base["weight"])
        )
        return (written, expected, base) if written.shape == expected.shape else None


def _along(recipe: Recipe, shape: Shape, taken: list[int], axis: str, inputs: Inputs) -> Floats:
    """Rows or columns of a matrix, one a line; it is never in memory as a whole."""
    if axis == "rows":
        return rows_of(recipe, shape, taken, inputs)
    step = max(BLOCK_NUMEL // shape[1], 1)
    blocks = [range(first, min(first + step, shape[0])) for first in range(0, shape[0], step)]
    columns: Floats = np.concatenate([rows_of(recipe, shape, block, inputs)[:, taken] for block in blocks]).T
    return columns
