"""Two tensors, read block by block -> how much they differ, in float64.

Counts and largest values are the same however the tensors are cut into blocks. Sums are of float64 products, added
block after block: another cut changes their last digits only, by less than one part in 10**10.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..dtypes import DType
from ..plan.pieces import share_bytes
from .cast import STORAGE, as_dtype, raw, to_single
from .compare import extents_of
from .reader import reader

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ..plan.pieces import Recipe
    from .inputs import Inputs

    Doubles = NDArray[np.float64]

BLOCK_NUMEL = 1 << 15
"""Elements that are compared at a time: a quarter of a megabyte in float64, so that the processor's cache holds what is
made on the way. More threads gain nothing: with so short steps they wait for one another."""
READ_NUMEL = 1 << 18
"""Elements that are read at a time."""
DOT_NUMEL = 1 << 13
"""Elements that are multiplied and added by one call. OpenBLAS leaves so few to one thread, so that sums do not depend
on the number of processors."""


@dataclass(slots=True)
class Values:
    """What the elements of one tensor are like."""

    nan: int = 0
    infinite: int = 0
    zeros: int = 0
    peak: float = 0.0
    """The largest finite absolute value."""
    square: float = 0.0
    """Sum of the squares of all finite elements."""

    @property
    def norm(self) -> float:
        """The Euclidean norm of the finite elements."""
        return math.sqrt(self.square)

    def add(self, values: Doubles) -> bool:
        """Count a block. Returns whether every element is finite."""
        if not values.size:
            return True
        square = dot(values, values)
        self.zeros += values.size - int(np.count_nonzero(values))
        if math.isfinite(square):
            self.square += square
            self.peak = max(self.peak, float(values.max()), -float(values.min()))
            return True
        nan = int(np.count_nonzero(np.isnan(values)))
        finite = values[np.isfinite(values)]
        self.nan += nan
        self.infinite += values.size - nan - finite.size
        self.square += dot(finite, finite)
        self.peak = max(self.peak, float(np.abs(finite).max(initial=0.0)))
        return finite.size == values.size  # squares of large float64 numbers are infinite

    def include(self, other: Values) -> None:
        """Add what was counted of other elements."""
        self.nan += other.nan
        self.infinite += other.infinite
        self.zeros += other.zeros
        self.peak = max(self.peak, other.peak)
        self.square += other.square


@dataclass(slots=True)
class Statistics:
    """How two tensors differ, element by element."""

    a: Values = field(default_factory=Values)
    b: Values = field(default_factory=Values)
    numel: int = 0
    changed: int = 0
    """Elements whose values differ. NaN equals NaN, and -0 equals 0."""
    unlike: int = 0
    """Those of them of which one is not finite: no difference can be computed."""
    product: float = 0.0
    """Sum of the products of elements that are both finite."""
    difference_square: float = 0.0
    """Sum of the squares of their differences."""
    largest: float = 0.0
    """The largest absolute difference of two finite elements."""
    largest_at: int = 0
    """Which element that is, in row-major order; the first of several."""
    largest_relative: float = 0.0
    """The largest difference of two finite elements, relative to the larger of their absolute values."""
    is_rounding: bool = True
    """Whether each element of the tensor of the narrower dtype is the other's, rounded: also true of equal ones."""

    @property
    def relative(self) -> float:
        """Norm of the difference, relative to the larger norm."""
        largest = max(self.a.norm, self.b.norm)
        if math.isinf(largest):  # its square is too large for float64
            return self.largest / max(self.a.peak, self.b.peak)
        return math.sqrt(self.difference_square) / largest if largest else 0.0

    @property
    def cosine(self) -> float | None:
        """Of the angle between both as vectors; None if one of them is zero, or too large for its square."""
        norms = self.a.norm * self.b.norm
        return max(-1.0, min(1.0, self.product / norms)) if norms and math.isfinite(self.product) else None

    def include(self, other: Statistics) -> None:
        """Add what was found in another pair of tensors; `largest_at` loses its meaning."""
        self.a.include(other.a)
        self.b.include(other.b)
        for name in ("numel", "changed", "unlike", "product", "difference_square"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.largest = max(self.largest, other.largest)
        self.largest_relative = max(self.largest_relative, other.largest_relative)
        self.is_rounding = self.is_rounding and other.is_rounding


class RowMarks:
    """Which rows of a matrix have an element that differs: a byte for each row."""

    def __init__(self, rows: int, row_numel: int) -> None:
        self._differs = np.zeros(rows, np.bool_)
        self._row_numel = row_numel

    def mark(self, start: int, changed: NDArray[np.bool_]) -> None:
        """`changed`: for each element from `start` on."""
        if not changed.size:
            return
        first, last = start // self._row_numel, (start + changed.size - 1) // self._row_numel
        begins = np.maximum(np.arange(first, last + 1) * self._row_numel - start, 0)
        self._differs[first : last + 1] |= np.logical_or.reduceat(changed, begins)

    @property
    def rows(self) -> list[int]:
        """Those that differ, in order."""
        return [int(row) for row in np.flatnonzero(self._differs)]


def differ(
    a: Recipe,
    b: Recipe,
    inputs: Inputs,
    *,
    numel: int,
    marks: RowMarks | None = None,
    block_numel: int = BLOCK_NUMEL,
    progress: Callable[[int], None],
) -> Statistics:
    """How the first `numel` elements of two tensors differ. `progress(n)` after every n bytes read from either.

    Elements are compared by value, whatever their dtypes. Memory: two blocks of READ_NUMEL elements, and what the
    readers of computed tensors take. Raises DamagedFile for files that cannot be read any more.
    """
    found = Statistics()
    mine, other = reader(a, inputs), reader(b, inputs)
    step = mine.block_numel or other.block_numel or READ_NUMEL
    longest = min(step, numel)
    ours, theirs = np.empty(longest, STORAGE[a.dtype]), np.empty(longest, STORAGE[b.dtype])
    # Squares of large float64 numbers, and pairs of infinities, are no reason for a warning.
    with inputs.files.expecting(extents_of(a, b, [(0, numel)])), np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, numel, step):
            stop = min(start + step, numel)
            mine.fill(start, stop, ours[: stop - start])
            other.fill(start, stop, theirs[: stop - start])
            for first in range(start, stop, block_numel):
                here = slice(first - start, min(first + block_numel, stop) - start)
                changed = _add(found, ours[here], a.dtype, theirs[here], b.dtype, first)
                if marks is not None and changed is not None:
                    marks.mark(first, changed)
            progress(share_bytes(a, stop - start) + share_bytes(b, stop - start))
    return found


def values_of(recipe: Recipe, inputs: Inputs, *, start: int = 0, progress: Callable[[int], None]) -> Values:
    """What the elements of one tensor from `start` on are like."""
    found, elements = Values(), reader(recipe, inputs)
    step = elements.block_numel or BLOCK_NUMEL
    for first in range(start, recipe.numel, step):
        last = min(first + step, recipe.numel)
        block = np.empty(last - first, STORAGE[recipe.dtype])
        elements.fill(first, last, block)
        with np.errstate(over="ignore", invalid="ignore"):
            found.add(as_doubles(block, recipe.dtype))
        progress(share_bytes(recipe, last - first))
    return found


def dot(x: Doubles, y: Doubles) -> float:
    """The sum of the products of two arrays of the same length."""
    return sum(float(np.dot(x[n : n + DOT_NUMEL], y[n : n + DOT_NUMEL])) for n in range(0, x.size, DOT_NUMEL))


def as_doubles(elements: NDArray[np.generic], dtype: DType) -> Doubles:
    """The values in float64: exact, except for integers beyond 2**53. Complex numbers are two each."""
    if dtype is DType.C64:
        return elements.view(np.float32).astype(np.float64)
    if dtype.kind in ("float", "float8") and dtype is not DType.F64:
        return to_single(elements, dtype).astype(np.float64)
    return elements.astype(np.float64)


def _add(
    found: Statistics,
    ours: NDArray[np.generic],
    dtype_a: DType,
    theirs: NDArray[np.generic],
    dtype_b: DType,
    start: int,
) -> NDArray[np.bool_] | None:
    """Count a block. Returns for each element whether it differs; None if none does."""
    found.numel += ours.size
    x = as_doubles(ours, dtype_a)
    if dtype_a is dtype_b and np.array_equal(raw(ours), raw(theirs)):
        alone = Values()
        alone.add(x)
        found.a.include(alone)
        found.b.include(alone)
        found.product += alone.square
        return None
    y = as_doubles(theirs, dtype_b)
    is_finite = found.a.add(x)
    is_finite = found.b.add(y) and is_finite
    is_exact = dtype_a is dtype_b and dtype_a.kind in ("integer", "bool")  # float64 does not hold all of 64 bits
    left, right = (raw(ours), raw(theirs)) if is_exact else (x, y)
    changed = np.empty(left.size, np.bool_)
    np.not_equal(left, right, out=changed)
    if changed.size != ours.size:
        either: NDArray[np.bool_] = np.logical_or.reduce(changed.reshape(ours.size, -1), axis=1)  # part of a number
        changed = either
    if not is_finite:
        x, y = _finite(found, x, y, changed)
    found.product += dot(x, y)
    found.changed += int(np.count_nonzero(changed))
    _largest(found, x, y, start, parts=x.size // max(ours.size, 1))
    if found.is_rounding and dtype_a is not dtype_b:
        found.is_rounding = _is_rounded(ours, dtype_a, theirs, dtype_b)
    elif dtype_a is dtype_b:
        found.is_rounding = found.is_rounding and not changed.any()
    return changed


def _finite(found: Statistics, x: Doubles, y: Doubles, changed: NDArray[np.bool_]) -> tuple[Doubles, Doubles]:
    """Both with zeros in place of pairs of which one is not finite; `changed` is corrected where both are NaN."""
    both_nan = np.isnan(x) & np.isnan(y)
    odd = ~(np.isfinite(x) & np.isfinite(y))
    if x.size == changed.size:
        changed &= ~both_nan
        found.unlike += int(np.count_nonzero(odd & changed))
    else:
        parts = (-1, x.size // changed.size)
        differing = (~both_nan & (x != y)).reshape(parts)
        changed[...] = differing.any(axis=1)
        found.unlike += int(np.count_nonzero((odd.reshape(parts) & differing).any(axis=1)))
    x, y = x.copy(), y.copy()
    x[odd] = y[odd] = 0.0
    return x, y


def _largest(found: Statistics, x: Doubles, y: Doubles, start: int, parts: int) -> None:
    """The largest differences of a block. `parts`: numbers for each element."""
    apart = x - y
    found.difference_square += dot(apart, apart)
    np.abs(apart, out=apart)
    at = int(np.argmax(apart)) if apart.size else 0
    if apart.size and apart[at] > found.largest:
        found.largest, found.largest_at = float(apart[at]), start + at // parts
    size = np.maximum(np.abs(x), np.abs(y))
    np.copyto(size, 1.0, where=size == 0.0)
    np.divide(apart, size, out=apart)
    found.largest_relative = max(found.largest_relative, float(apart.max(initial=0.0)))


def _is_rounded(ours: NDArray[np.generic], dtype_a: DType, theirs: NDArray[np.generic], dtype_b: DType) -> bool:
    """Whether the elements of the narrower dtype are the others, rounded to nearest even."""
    if not (dtype_a.is_floating and dtype_b.is_floating) or dtype_a.itemsize == dtype_b.itemsize:
        return False
    if dtype_a.itemsize < dtype_b.itemsize:
        ours, dtype_a, theirs, dtype_b = theirs, dtype_b, ours, dtype_a
    narrow = as_dtype(ours, dtype_a, dtype_b)
    if np.array_equal(raw(narrow), raw(theirs)):
        return True
    made, there = to_single(narrow, dtype_b), to_single(theirs, dtype_b)
    return bool(((made == there) | (np.isnan(made) & np.isnan(there))).all())
