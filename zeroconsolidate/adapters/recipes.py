"""Recipes of computed tensors: adapters added to weights. They hold facts; `readers.py` does the arithmetic.

All of them can be asked for any interval of elements, like a recipe that copies, and have no copies of their own.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from ..plan.computed import Computed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..catalog.facts import Shape
    from ..dtypes import DType
    from ..plan.pieces import Recipe

ROW_BLOCK_BYTES = 2 << 20
"""Rows of a weight are merged in blocks of about this size, counted in float32."""
FEWEST_ROWS = 64
"""But blocks have at least this many rows: a matrix product of very few rows may take another path and round
differently."""
BLOCKS_HELD = 8
"""Blocks in memory at a time: the weight, the product, their sum, and what torch makes in between."""


class Lie(Enum):
    """How the product B A is laid out in the weight."""

    ROWS = "W[o, i]: nn.Linear"
    COLUMNS = "W[i, o]: transformers' Conv1D (fan_in_fan_out)"
    EMBEDDING = "W[i, o], and the product is rounded to the weight's dtype before it is added"
    EXPERTS = "W[e, o, i]: a matrix an expert, rounded before it is added"
    EXPERTS_TRANSPOSED = "W[e, i, o]"
    CONVOLUTION = "W[o, i, kernel…]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Factor:
    """A or B of an adapter, or DoRA's magnitudes."""

    recipe: Recipe
    shape: Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank:
    """What one adapter adds to a weight: scale * B A, and for DoRA a new length for each output's row."""

    adapter: str
    a: Factor
    """[r, in], for experts [experts * r, in]."""
    b: Factor
    """[out, r], for experts [out, r * experts]."""
    scale: float
    lie: Lie
    magnitude: Factor | None
    """[out]: DoRA's `lora_magnitude_vector`."""
    rounds_first: bool
    """Round B A to the weight's dtype before it is added."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged(Computed):
    """A weight with adapters merged into it, one after the other, in `dtype`."""

    base: Recipe
    shape: Shape
    dtype: DType
    """The base is cast to it first, as a model that is loaded in this dtype would be."""
    parts: tuple[LowRank, ...]

    @property
    def rows(self) -> int:
        """Rows of the weight as it is stored; for experts, those of all of them."""
        return self.numel // self.row_numel if self.numel else 0

    @property
    def row_numel(self) -> int:
        """Elements of a row: of the last dimension, or of all but the first for a convolution."""
        if any(part.lie is Lie.CONVOLUTION for part in self.parts):
            return self.numel // self.shape[0]
        return self.shape[-1]

    def blocks(self) -> tuple[int, ...]:
        """The rows at which blocks begin, and the number of rows. Experts are never cut across."""
        matrix_rows = self.rows
        if any(part.lie is Lie.CONVOLUTION for part in self.parts):
            return (0, matrix_rows)  # torch's convolution promises nothing about parts of itself
        if len(self.shape) == 3:
            matrix_rows = self.shape[1]
        fitting = max(ROW_BLOCK_BYTES // (4 * self.row_numel), FEWEST_ROWS)
        count = max(matrix_rows // fitting, 1)
        cuts = [matrix_rows * i // count for i in range(count)]
        return (*(first + cut for first in range(0, self.rows, matrix_rows) for cut in cuts), self.rows)

    @property
    def block_ends(self) -> Sequence[int]:
        return [row * self.row_numel for row in self.blocks()[1:]]

    @property
    def memory_bytes(self) -> int:
        """An upper bound for the memory that evaluating it takes."""
        starts = self.blocks()
        rows = max(stop - start for start, stop in itertools.pairwise(starts))
        factors = [f for part in self.parts for f in (part.a, part.b, part.magnitude) if f is not None]
        held = sum(4 * factor.recipe.numel for factor in factors)
        return 2 * held + BLOCKS_HELD * 4 * rows * self.row_numel

    @property
    def input_bytes(self) -> int:
        """What is read from files."""
        factors = [f for part in self.parts for f in (part.a, part.b, part.magnitude) if f is not None]
        return self.base.input_bytes + sum(factor.recipe.input_bytes for factor in factors)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsReplaced(Computed):
    """A matrix in which some rows come from elsewhere: trained tokens in an embedding."""

    base: Recipe
    shape: Shape
    dtype: DType
    replacements: tuple[tuple[tuple[int, ...], Recipe], ...]
    """(row numbers, the rows); a later one wins."""

    @property
    def block_ends(self) -> Sequence[int]:
        return range(self.shape[-1], self.numel + 1, self.shape[-1])

    @property
    def input_bytes(self) -> int:
        return self.base.input_bytes + sum(recipe.input_bytes for _, recipe in self.replacements)

    @property
    def memory_bytes(self) -> int:
        return sum(2 * recipe.numel * recipe.dtype.itemsize for _, recipe in self.replacements)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shifted(Computed):
    """A bias to which adapters add: base + scale * bias, one after the other, in `dtype` (`lora_bias`)."""

    base: Recipe
    dtype: DType
    shifts: tuple[tuple[Recipe, float], ...]

    @property
    def input_bytes(self) -> int:
        return self.base.input_bytes + sum(recipe.input_bytes for recipe, _ in self.shifts)

    @property
    def memory_bytes(self) -> int:
        return 4 * 4 * self.numel


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleTensor:
    """A tensor handed to PEFT: one of the module's own (`base_layer.weight`) or of its adapter."""

    name: str
    factor: Factor


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleJob:
    """A module that PEFT merges, all of it at once."""

    kind: str
    module: str
    tensors: tuple[ModuleTensor, ...]
    setting: tuple[str, str, str, str]
    """Directory of the model's config.json, directory of adapter_config.json, name of the adapter, and torch's name of
    the dtype in which the base is loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OfModule(Computed):
    """One of the tensors of a module that PEFT merges."""

    job: ModuleJob
    tensor: str
    """Its name in the module, such as `weight`."""
    base: Recipe
    dtype: DType

    @property
    def input_bytes(self) -> int:
        return sum(tensor.factor.recipe.input_bytes for tensor in self.job.tensors)

    @property
    def memory_bytes(self) -> int:
        """Of both processes, not counting what PEFT allocates in between."""
        return 4 * sum(4 * tensor.factor.recipe.numel for tensor in self.job.tensors)
