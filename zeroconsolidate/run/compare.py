"""Two tensors, one of them cast to the dtype of the other -> the first element that differs.

Many are compared piece by piece, in one thread or in several, and no result depends on how many.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import StoreFailed, ZeroConsolidateError
from .cast import AT_ONCE_NUMEL, STORAGE, as_dtype, raw, to_single
from .execute import BLOCK_BYTES, PIECE_BYTES, cuts_of
from .reader import reader
from .storage import extents
from .together import in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from ..dtypes import DType
    from ..plan.pieces import Recipe
    from ..plan.witness import Comparison
    from .inputs import Inputs
    from .reader import Reader
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
    readers = reader(source, inputs), reader(target, inputs)
    return _first(readers, source.dtype, target.dtype, start, stop, progress)


def differences(
    comparisons: Iterable[Comparison],
    inputs: Inputs,
    *,
    others: Sequence[Inputs] = (),
    progress: Callable[[int], None],
) -> Iterator[tuple[Comparison, Difference | ZeroConsolidateError | None]]:
    """Each comparison, in order, with the first element that differs, or the error that reading ended with.

    With `others`, inputs for a further thread each, several pieces are compared at the same time. `progress(n)` is
    called by the caller's thread, after every n bytes read.
    """
    found: Difference | ZeroConsolidateError | None = None
    comparisons = list(comparisons)
    coming = (extent for each in comparisons for extent in extents_of(each.master, each.copy, each.intervals))
    with (
        inputs.files.expecting(coming),
        in_order(_compared, _pieces(comparisons), inputs, others=others, progress=progress) as results,
    ):
        for piece, result in results:
            found = found or result
            if piece.is_last:
                yield piece.comparison, found
                found = None


@dataclass(frozen=True, slots=True)
class _Piece:
    """Elements `[start, stop)` of a comparison."""

    comparison: Comparison
    start: int
    stop: int
    is_last: bool


def _pieces(comparisons: Iterable[Comparison]) -> Iterator[_Piece]:
    for comparison in comparisons:
        wide = max(comparison.master.dtype.itemsize, comparison.copy.dtype.itemsize)
        cuts = cuts_of(comparison.master, PIECE_BYTES // wide)
        ranges: list[tuple[int, int]] = []
        for start, stop in comparison.intervals:
            ends = [*(cut for cut in cuts if start < cut < stop), stop]
            ranges += zip([start, *ends[:-1]], ends, strict=True)
        for start, stop in ranges[:-1]:
            yield _Piece(comparison, start, stop, is_last=False)
        yield _Piece(comparison, *(ranges[-1] if ranges else (0, 0)), is_last=True)


def _compared(
    inputs: Inputs, piece: _Piece, advance: Callable[[int], None]
) -> tuple[_Piece, Difference | ZeroConsolidateError | None]:
    comparison = piece.comparison
    try:
        readers = inputs.resource(_LastReaders, _LastReaders).of(comparison, inputs)
        found = _first(
            readers, comparison.master.dtype, comparison.copy.dtype, piece.start, piece.stop, progress=advance
        )
    except StoreFailed:
        raise
    except ZeroConsolidateError as error:
        return piece, error
    return piece, found


class _LastReaders:
    """Readers of the last comparison, for its next piece: one that computes may have read a lot to begin with."""

    def __init__(self) -> None:
        self._last: tuple[Comparison, tuple[Reader, Reader]] | None = None

    def of(self, comparison: Comparison, inputs: Inputs) -> tuple[Reader, Reader]:
        if self._last is None or self._last[0] is not comparison:
            self._last = None  # what it holds is given up before the next is made
            self._last = comparison, (reader(comparison.master, inputs), reader(comparison.copy, inputs))
        return self._last[1]

    def close(self) -> None:
        self._last = None


def _first(
    readers: tuple[Reader, Reader],
    source: DType,
    target: DType,
    start: int,
    stop: int,
    progress: Callable[[int], None],
) -> Difference | None:
    """What :func:`first_difference` gives, of tensors of these dtypes."""
    block_numel = BLOCK_BYTES // max(source.itemsize, target.itemsize)
    expected, written = readers
    longest = min(block_numel, stop - start)
    block, other = np.empty(longest, STORAGE[source]), np.empty(longest, STORAGE[target])
    for first in range(start, stop, block_numel):
        last = min(first + block_numel, stop)
        ours, theirs = block[: last - first], other[: last - first]
        expected.fill(first, last, ours)
        written.fill(first, last, theirs)
        for begin in range(0, last - first, AT_ONCE_NUMEL):
            here = slice(begin, begin + AT_ONCE_NUMEL)
            found = _difference(ours[here], source, theirs[here], target)
            if found is not None:
                index, value, got = found
                return Difference(index=first + begin + index, expected=value, got=got)
        progress((last - first) * (source.itemsize + target.itemsize))
    return None


def extents_of(source: Recipe, target: Recipe, intervals: Iterable[tuple[int, int]]) -> Iterator[Extent]:
    """What a comparison reads of the inputs, for who wants to announce it: some of each in turn."""
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
