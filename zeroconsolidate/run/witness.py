"""Compares masters with their 16-bit copies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import WitnessMismatch, at
from .cast import STORAGE, cast
from .execute import BLOCK_BYTES
from .fill import fill

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from ..dtypes import DType
    from ..plan.witness import Comparison
    from .inputs import Inputs


def compare(comparisons: Iterable[Comparison], inputs: Inputs) -> int:
    """Returns the number of elements compared. Raises WitnessMismatch at the first that differs."""
    compared = 0
    for comparison in comparisons:
        with at(comparison.name):
            for start, stop in comparison.intervals:
                block_numel = BLOCK_BYTES // 4
                for first in range(start, stop, block_numel):
                    _compare(comparison, first, min(first + block_numel, stop), inputs)
                compared += stop - start
    return compared


def _compare(comparison: Comparison, start: int, stop: int, inputs: Inputs) -> None:
    master, copy = comparison.master, comparison.copy
    masters = np.empty(stop - start, STORAGE[master.dtype])
    copies = np.empty(stop - start, STORAGE[copy.dtype])
    fill(inputs, master, start, stop, masters)
    fill(inputs, copy, start, stop, copies)
    rounded = np.empty_like(copies)
    cast(masters, master.dtype, copy.dtype, rounded)
    if rounded.tobytes() == copies.tobytes():
        return
    different = _bits(rounded) != _bits(copies)
    different &= ~(_is_nan(rounded, copy.dtype) & _is_nan(copies, copy.dtype))
    if different.any():
        index = int(np.argmax(different))
        expected, got = (float(_values(values[index : index + 1], copy.dtype)[0]) for values in (copies, rounded))
        raise WitnessMismatch(
            f"the master weights do not round to the copy in 'module' (element {start + index}): "
            f"expected {expected!r}, got {got!r}; a file may be of another save, or the layout is not what it seems; "
            "nothing was written (--no-check writes it all the same)"
        )


def _bits(values: NDArray[np.generic]) -> NDArray[np.generic]:
    return values.view(np.dtype(f"u{values.itemsize}"))


def _values(values: NDArray[np.generic], dtype: DType) -> NDArray[np.generic]:
    from ..dtypes import DType as Types

    wide = np.empty(len(values), np.float32)
    cast(values, dtype, Types.F32, wide)
    return wide


def _is_nan(values: NDArray[np.generic], dtype: DType) -> NDArray[np.bool_]:
    return np.isnan(_values(values, dtype).astype(np.float32))
