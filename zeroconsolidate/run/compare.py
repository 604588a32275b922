"""Two tensors, one of them cast to the dtype of the other -> the first element that differs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .cast import STORAGE, as_dtype, raw, to_single
from .execute import BLOCK_BYTES
from .reader import reader
from .storage import extents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from ..dtypes import DType
    from ..plan.pieces import Recipe
    from .inputs import Inputs
    from .storage import Extent

_IN_TURN_NUMEL = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first element, in row-major order, in which two tensors differ."""

    index: int
    expected: float
    got: float


def first_difference(
    inputs: Inputs,
    source: Recipe,
    target: Recipe,
    *,
    start: int,
    stop: int,
    progress: Callable[[int], None],
) -> Difference | None:
    """Where elements `[start, stop)` of `source`, cast to the dtype of `target`, first differ from it.

    Bytes are compared. Only after a cast all NaNs count as equal: the processor chooses their bits.
    `progress(n)` is called after every n bytes read from either.
    """
    block_numel = BLOCK_BYTES // max(source.dtype.itemsize, target.dtype.itemsize)
    expected, written = reader(source, inputs), reader(target, inputs)
    for first in range(start, stop, block_numel):
        last = min(first + block_numel, stop)
        ours = np.empty(last - first, STORAGE[source.dtype])
        theirs = np.empty(last - first, STORAGE[target.dtype])
        expected.fill(first, last, ours)
        written.fill(first, last, theirs)
        found = _difference(ours, source.dtype, theirs, target.dtype)
        if found is not None:
            index, value, got = found
            return Difference(index=first + index, expected=value, got=got)
        progress((last - first) * (source.dtype.itemsize + target.dtype.itemsize))
    return None


def extents_of(source: Recipe, target: Recipe, intervals: Iterable[tuple[int, int]]) -> Iterator[Extent]:
    """What :func:`first_difference` reads of the inputs, for who wants to announce it: some of each in turn."""
    for start, stop in intervals:
        for first in range(start, stop, _IN_TURN_NUMEL):
            for recipe in (source, target):
                if recipe.is_copied:
                    yield from extents(recipe.copies(first, min(first + _IN_TURN_NUMEL, stop)))


def _difference(
    ours: NDArray[np.generic], source: DType, theirs: NDArray[np.generic], target: DType
) -> tuple[int, float, float] | None:
    made = as_dtype(ours, source, target)
    different = raw(made) != raw(theirs)
    if not different.any():
        return None
    if source is not target:
        different &= ~(np.isnan(_values(made, target)) & np.isnan(_values(theirs, target)))
        if not different.any():
            return None
    index = int(np.argmax(different))
    expected, got = (float(_values(values[index : index + 1], target)[0]) for values in (made, theirs))
    return index, expected, got


def _values(values: NDArray[np.generic], dtype: DType) -> NDArray[np.floating]:
    return to_single(values, dtype) if dtype.kind.startswith("float") else values.astype(np.float64)
