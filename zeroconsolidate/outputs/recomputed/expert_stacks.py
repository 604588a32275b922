"""A second check of merged experts, which are one stack in memory and one matrix each in files.

    W'[e] = W[e] + s B[:, :, e] A[e]          A: [experts * r, in], B: [out, r * experts]

(`LoraParamWrapper` in `peft/tuners/lora/layer.py`). Which rows of the stack a matrix of the files has, the plan tells;
which factors belong to it, their names and shapes, and where they leave a choice it is not recomputed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...adapters.recipes import Merged
from ...plan.pieces import Rows, View
from . import formulas
from .merged_tensor import as_written, rows_of, whole

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from ...archive.located import LocatedTensor
    from ...plan.build import Source
    from ...plan.layout import TensorPlan
    from ...plan.pieces import Recipe
    from ...run.inputs import Inputs

    Floats = NDArray[np.float64]

MOST_ROWS = 4
MOST_NUMEL = 1 << 22
"""Factors of more elements are left alone: those of all experts are one tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertMatrix:
    """A matrix of one expert, as the files have it."""

    name: str
    written: LocatedTensor
    base: LocatedTensor
    first: int
    """Of the stack's rows, one matrix after the other: where this begins."""
    shape: tuple[int, ...]
    """Of the stack."""
    a: Source
    b: Source
    config: Mapping[str, Any]
    module: str

    def rows(self, inputs: Inputs) -> tuple[Floats, Floats, Floats, Floats] | None:
        """Some rows: what was written, what is expected, the base, and how large the rounded numbers are."""
        experts, height, width = self.shape
        a, b = whole(self.a, inputs), whole(self.b, inputs)
        rank = a.shape[0] // experts
        count = self.written.shape[0]
        rows = sorted({number * (count - 1) // (MOST_ROWS - 1) for number in range(MOST_ROWS)})
        expert, row = divmod(self.first, height)
        if row + count > height:
            return None
        here = [row + number for number in rows]
        one, other = a.reshape(experts, rank, -1)[expert], b.reshape(b.shape[0], rank, experts)[:, :, expert]
        found = [formulas.product(x, y, (height, width), here, turned=False)
                 for x, y in ((one, other), (np.abs(one), np.abs(other)))]  # fmt: skip
        change, terms = found
        if change is None or terms is None:
            return None
        scale = formulas.scale(self.config, self.module, rank)
        below = as_written(rows_of(View(self.base), self.base.shape, rows, inputs), self.written.dtype)
        written = rows_of(View(self.written), self.written.shape, rows, inputs)
        return written, below + scale * change, below, np.abs(below) + scale * terms


def expert_matrices(
    planned: Mapping[str, TensorPlan],
    stored: Mapping[str, dict[str, dict[str, Source]]],
    configs: Mapping[str, Mapping[str, Any]],
    base: Mapping[str, LocatedTensor],
    written: Mapping[str, LocatedTensor],
) -> Iterator[ExpertMatrix]:
    """Those whose factors are certain. `stored`: module -> adapter -> factors, nested wrappers separately."""
    if len(configs) != 1:
        return
    ((adapter, config),) = configs.items()
    if config.get("alpha_pattern"):
        return  # which may name parameters
    for name, tensor in planned.items():
        place = _in_stack(tensor.recipe)
        below = base.get(name)
        if place is None or below is None or below.shape != tensor.shape or len(tensor.shape) != 2:
            continue
        shape, first = place
        layer = [part for part in name.split(".") if part.isdigit()][:-1]
        fitting = [
            (module, held[adapter])
            for module, held in stored.items()
            if adapter in held
            and [part for part in module.split(".") if part.isdigit()] == layer
            and _fits(held[adapter], shape)
        ]
        if len(fitting) == 1:
            ((module, factors),) = fitting
            yield ExpertMatrix(
                name=name, written=written[name], base=below, first=first, shape=shape, a=factors["lora_A.weight"],
                b=factors["lora_B.weight"], config=config, module=module,
            )  # fmt: skip


def _in_stack(recipe: Recipe) -> tuple[tuple[int, ...], int] | None:
    """(shape of the stack, its row at which the matrix begins), of one run of rows of a merged stack."""
    if not isinstance(recipe, Rows) or len(recipe.of) != 1 or len(recipe.runs) != 1:
        return None
    (stack,) = recipe.of
    if not isinstance(stack, Merged) or len(stack.shape) != 3 or any(part.magnitude for part in stack.parts):
        return None
    element = recipe.runs[0][1] * recipe.row_numel
    return (stack.shape, element // stack.shape[-1]) if element % stack.shape[-1] == 0 else None


def _fits(factors: Mapping[str, Source], shape: tuple[int, ...]) -> bool:
    a, b = factors.get("lora_A.weight"), factors.get("lora_B.weight")
    if a is None or b is None or len(a.shape) != 2 or len(b.shape) != 2:
        return False
    if max(a.recipe.numel, b.recipe.numel) > MOST_NUMEL:
        return False
    experts, *matrix = shape
    fits = a.shape[0] % experts == 0 and a.shape[0] == b.shape[1]
    return fits and sorted(matrix) == sorted((a.shape[1], b.shape[0]))
