"""Compares masters with their 16-bit copies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import Disagreement, WitnessMismatch, ZeroConsolidateError, at
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
    """Returns the number of elements compared. At the first that differs raises WitnessMismatch, or for replicas
    Disagreement."""
    compared = 0
    for comparison in comparisons:
        with at(comparison.name):
            for start, stop in comparison.intervals:
                block_numel = BLOCK_BYTES // 4
                for first in range(start, stop, block_numel):
                    _compare(comparison, first, min(first + block_numel, stop), inputs)
                compared += stop - start
    return compared


def drifted(comparisons: Iterable[Comparison], inputs: Inputs) -> list[str]:
    """Names of the tensors whose replicas differ."""
    names: dict[str, None] = {}
    for comparison in comparisons:
        if comparison.name not in names:
            try:
                compare([comparison], inputs)
            except Disagreement:
                names[comparison.name] = None
    return list(names)


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
        raise _mismatch(comparison, f"(element {start + index}): expected {expected!r}, got {got!r}")


def _mismatch(comparison: Comparison, where: str) -> ZeroConsolidateError:
    if comparison.holders:
        first, other = comparison.holders
        return Disagreement(
            f"the copies that {other} and {first} hold of the same tensor differ {where}; they have drifted apart, and "
            "no merge of them is exact; nothing was written (--replicas first takes the first of them)"
        )
    return WitnessMismatch(
        f"the master weights do not round to the copy in 'module' {where}; "
        "a file may be of another save, or the layout is not what it seems; "
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
