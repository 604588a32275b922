"""Recipes of the weights that quantized ones stand for: number times scale, in float32.

This is what compressed-tensors' `_dequantize` (`quantization/lifecycle/forward_helpers.py`) and transformers'
`Fp8Dequantize` (`integrations/finegrained_fp8.py`) compute of float32 scales; `dequantizing.py` does the arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..dtypes import DType
from ..plan.computed import Computed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..catalog.facts import Shape
    from ..plan.pieces import Recipe

ROW_BLOCK_NUMEL = 1 << 16
"""Rows are computed in blocks of about so many elements, which fit a processor's cache."""
BYTES_HELD = 24
"""For each element of a block: the number, its float32, the scale, and what their product needs."""
NUMBERS_A_WORD = 4
"""Of 8 bits, in an int32 of compressed-tensors' `pack-quantized`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dequantized(Computed):
    """A matrix [rows, columns] of float32: each number of 8 bits times the scale of its block."""

    base: Recipe
    """The numbers, row-major: [rows, columns] of float8 or int8, or [rows, words] of int32 with four numbers each."""
    scales: Recipe
    """Row-major: one for each block, [ceil(rows / block rows), ceil(columns / block columns)]."""
    rows: int
    columns: int
    block: Shape
    """Rows and columns that share a scale."""

    @property
    def numel(self) -> int:
        return self.rows * self.columns

    @property
    def dtype(self) -> DType:
        return DType.F32

    @property
    def is_packed(self) -> bool:
        """Whether four numbers are in a word."""
        return self.base.dtype is DType.I32

    @property
    def stored_dtype(self) -> DType:
        """Of the numbers."""
        return DType.I8 if self.is_packed else self.base.dtype

    @property
    def fitting_rows(self) -> int:
        """Rows that are computed at a time."""
        return max(ROW_BLOCK_NUMEL // max(self.columns, 1), 1)

    @property
    def input_bytes(self) -> int:
        return self.base.input_bytes + self.scales.input_bytes

    @property
    def memory_bytes(self) -> int:
        return BYTES_HELD * min(self.fitting_rows, self.rows) * self.columns

    @property
    def block_ends(self) -> Sequence[int]:
        step = self.fitting_rows * self.columns
        return [*range(step, self.numel, step), self.numel] if self.numel else [0]
