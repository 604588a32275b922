"""Recipes of tensors joined from the parts that tensor- or expert-parallel ranks hold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .boxes import Axis, Box, span_of
from .pieces import Copied, share_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..dtypes import DType
    from .pieces import Copy, Recipe


@dataclass(frozen=True, slots=True)
class Joined(Copied):
    """A tensor of `numel` elements; `boxes[i]` says where elements of `parts[i]` go. The boxes tile it
    (:func:`~.boxes.tile`) and are sorted by `start`."""

    numel: int
    boxes: tuple[Box, ...]
    parts: tuple[Recipe, ...]

    @property
    def dtype(self) -> DType:
        return self.parts[0].dtype

    @property
    def is_plain(self) -> bool:
        return all(_is_run(box) for box in self.boxes) and all(part.is_plain for part in self.parts)

    @property
    def is_copied(self) -> bool:
        return all(part.is_copied for part in self.parts)

    def copies(self, start: int = 0, stop: int | None = None) -> Iterator[Copy]:
        """One strided copy for each box and each extent of its part that the interval touches, and one for each
        row that an end of the interval or of an extent cuts."""
        stop = self.numel if stop is None else stop
        for box, part in zip(self.boxes, self.parts, strict=True):
            if box.start < stop and box.start + box.span > start:
                yield from _clip(part, box.axes, box.start, box.part_start, start, stop)


@dataclass(frozen=True, slots=True)
class Section:
    """Elements `[first, first + numel)` of another tensor: rows of a padded vocabulary, one of stacked experts."""

    whole: Recipe
    first: int
    numel: int

    @property
    def dtype(self) -> DType:
        return self.whole.dtype

    @property
    def is_plain(self) -> bool:
        return self.whole.is_plain

    @property
    def is_copied(self) -> bool:
        return self.whole.is_copied

    @property
    def input_bytes(self) -> int:
        return share_bytes(self.whole, self.numel)

    @property
    def memory_bytes(self) -> int:
        return self.whole.memory_bytes

    def copies(self, start: int = 0, stop: int | None = None) -> Iterator[Copy]:
        """The copies of the whole tensor in the interval."""
        last = self.first + (self.numel if stop is None else stop)
        for copy in self.whole.copies(self.first + start, last):
            yield replace(copy, start=copy.start - self.first)


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean of tensors of equal shape, which is not a copy: `run` adds them up in their order, in their own dtype,
    and divides (mirrors `merge_tp_slices` in `deepspeed/checkpoint/ds_to_universal.py`)."""

    parts: tuple[Recipe, ...]

    @property
    def numel(self) -> int:
        return self.parts[0].numel

    @property
    def dtype(self) -> DType:
        return self.parts[0].dtype

    @property
    def is_plain(self) -> bool:
        return False

    @property
    def is_copied(self) -> bool:
        return False

    @property
    def input_bytes(self) -> int:
        return sum(part.input_bytes for part in self.parts)

    @property
    def memory_bytes(self) -> int:
        return sum(part.memory_bytes for part in self.parts)

    def copies(self, start: int = 0, stop: int | None = None) -> Iterator[Copy]:
        """Every copy that is read. They cover the interval once for each part."""
        for part in self.parts:
            yield from part.copies(start, stop)


def _is_run(box: Box) -> bool:
    return not box.axes or (len(box.axes) == 1 and _is_unit(box.axes[0]))


def _is_unit(axis: Axis) -> bool:
    return axis.step == axis.part_step == 1


def _clip(part: Recipe, axes: Sequence[Axis], start: int, part_start: int, low: int, high: int) -> Iterator[Copy]:
    """The copies of a box at `start`, as far as they lie in elements `[low, high)` of the whole."""
    if not axes:
        yield from _run(part, part_start, 1, start)
        return
    axis, inner = axes[0], axes[1:]
    if not inner and _is_unit(axis):
        first, last = max(low - start, 0), min(high - start, axis.numel)
        yield from _run(part, part_start + first, last - first, start + first)
        return
    span = span_of(inner)
    # Rows that the interval touches, and those of them that lie in it.
    touched = max(-(-(low - start - span + 1) // axis.step), 0), min((high - 1 - start) // axis.step + 1, axis.numel)
    whole = max(-(-(low - start) // axis.step), touched[0]), min((high - start - span) // axis.step + 1, touched[1])
    if not inner or (len(inner) == 1 and _is_unit(inner[0])):
        run = inner[0].numel if inner else 1
        for index in range(touched[0], min(whole[0], touched[1])):
            yield from _row(part, axis, inner, start, part_start, low, high, index)
        if whole[0] < whole[1]:
            yield from _rows(
                part,
                part_start + whole[0] * axis.part_step,
                start + whole[0] * axis.step,
                Axis(whole[1] - whole[0], axis.step, axis.part_step),
                run,
            )
        for index in range(max(whole[1], whole[0]), touched[1]):
            yield from _row(part, axis, inner, start, part_start, low, high, index)
        return
    for index in range(*touched):
        yield from _row(part, axis, inner, start, part_start, low, high, index)


def _row(
    part: Recipe, axis: Axis, inner: Sequence[Axis], start: int, part_start: int, low: int, high: int, index: int
) -> Iterator[Copy]:
    yield from _clip(part, inner, start + index * axis.step, part_start + index * axis.part_step, low, high)


def _run(part: Recipe, part_start: int, numel: int, start: int) -> Iterator[Copy]:
    """Consecutive elements of the part that are consecutive in the whole."""
    for copy in part.copies(part_start, part_start + numel):
        yield replace(copy, start=start + copy.start - part_start)


def _rows(part: Recipe, part_start: int, start: int, rows: Axis, run: int) -> Iterator[Copy]:
    """`rows.numel` runs of `run` elements each. Runs that lie end to end in the part are read end to end."""
    if rows.part_step == run:
        for copy in part.copies(part_start, part_start + rows.numel * run):
            for extent in _extents(copy):
                yield from _deal(extent, extent.start - part_start, start, rows.step, run)
        return
    span = (rows.numel - 1) * rows.part_step + run
    extents = list(part.copies(part_start, part_start + span))
    if len(extents) == 1 and extents[0].count == 1:
        yield replace(
            extents[0], start=start, run_numel=run, count=rows.numel, file_step=rows.part_step, step=rows.step
        )
        return
    for index in range(rows.numel):
        yield from _run(part, part_start + index * rows.part_step, run, start + index * rows.step)


def _extents(copy: Copy) -> Iterator[Copy]:
    """A copy run by run: a part may itself be a strided view."""
    if copy.count == 1:
        yield copy
        return
    for index in range(copy.count):
        yield replace(
            copy,
            file_start=copy.file_start + index * copy.file_step * copy.dtype.itemsize,
            start=copy.start + index * copy.step,
            count=1,
            file_step=0,
            step=0,
        )


def _deal(extent: Copy, first: int, start: int, step: int, run: int) -> Iterator[Copy]:
    """An extent that holds elements from `first` on of rows laid end to end, dealt out to the rows' places."""
    done = 0
    while done < extent.run_numel:
        row, column = divmod(first + done, run)
        rows = (extent.run_numel - done) // run if not column else 0
        numel = rows * run or min(run - column, extent.run_numel - done)
        dealt = replace(
            extent,
            file_start=extent.file_start + done * extent.dtype.itemsize,
            start=start + row * step + column,
            run_numel=numel,
        )
        if rows > 1:
            dealt = replace(dealt, run_numel=run, count=rows, file_step=run, step=step)
        yield dealt
        done += numel
