"""Recipes of quantized weights and of their scales. They hold facts; `quantizing.py` does the arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from ..dtypes import DType
from ..errors import PlanBroken
from ..plan.computed import Computed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..plan.pieces import Recipe

ROW_BLOCK_BYTES = 1 << 20
"""Rows of a weight are quantized in blocks of about this size, counted in float32."""
BLOCKS_HELD = 6
"""Blocks in memory at a time: the rows, what they are divided to, and what rounding them needs."""
BLOCK_SIDE = 128
"""Rows and columns of a block that shares a scale, in DeepSeek's format."""


class Scheme(Enum):
    """How weights become numbers of 8 bits, each with its own arithmetic."""

    FP8 = "E4M3 with a scale for each row: x / s, where s is the row's largest magnitude / 448"
    FP8_BLOCK = "E4M3 with a scale for each 128 x 128 block: x (448 / m), where m is the block's largest magnitude"
    INT8 = "whole numbers from -128 to 127, four in an int32, with a scale for each row: its largest magnitude / 127.5"

    @property
    def rows_together(self) -> int:
        """Rows that share scales."""
        return BLOCK_SIDE if self is Scheme.FP8_BLOCK else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _OfRows(Computed):
    """A matrix of `rows` rows made of one with as many, block of rows by block of rows."""

    base: Recipe
    """Row-major, [rows, columns]."""
    rows: int
    columns: int
    scheme: Scheme

    @property
    def fitting_rows(self) -> int:
        """Rows of the base that are read at a time, a multiple of those that share scales."""
        together = self.scheme.rows_together
        return max(ROW_BLOCK_BYTES // (4 * max(self.columns, 1)) // together, 1) * together

    @property
    def input_bytes(self) -> int:
        return self.base.input_bytes

    @property
    def memory_bytes(self) -> int:
        return self.base.memory_bytes + BLOCKS_HELD * 4 * min(self.fitting_rows, self.rows) * self.columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized(_OfRows):
    """A weight as numbers of 8 bits."""

    @property
    def dtype(self) -> DType:
        return DType.I32 if self.scheme is Scheme.INT8 else DType.F8_E4M3

    @property
    def width(self) -> int:
        """Elements of a row: words of four numbers each for int8."""
        return -(-self.columns // 4) if self.scheme is Scheme.INT8 else self.columns

    @property
    def numel(self) -> int:
        return self.rows * self.width

    @property
    def block_ends(self) -> Sequence[int]:
        return _ends(self.rows, self.fitting_rows, self.width)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scales(_OfRows):
    """The scales of a quantized weight: what its numbers are multiplied with. [rows, 1], or of blocks."""

    @property
    def dtype(self) -> DType:
        return DType.F32

    @property
    def width(self) -> int:
        """Scales side by side."""
        return -(-self.columns // BLOCK_SIDE) if self.scheme is Scheme.FP8_BLOCK else 1

    @property
    def numel(self) -> int:
        return -(-self.rows // self.scheme.rows_together) * self.width

    @property
    def block_ends(self) -> Sequence[int]:
        together = self.scheme.rows_together
        return _ends(-(-self.rows // together), self.fitting_rows // together, self.width)


def _ends(rows: int, fitting: int, width: int) -> Sequence[int]:
    return [*range(fitting * width, rows * width, fitting * width), rows * width]


@dataclass(frozen=True, slots=True)
class Listed(Computed):
    """A few whole numbers that the plan knows, such as a shape."""

    values: tuple[int, ...]

    @property
    def base(self) -> Recipe:  # type: ignore[override]
        """There is none: raises PlanBroken."""
        raise PlanBroken("the numbers are made of nothing else")

    @property
    def numel(self) -> int:
        return len(self.values)

    @property
    def dtype(self) -> DType:
        return DType.I64

    @property
    def input_bytes(self) -> int:
        return 0

    @property
    def memory_bytes(self) -> int:
        return 0
