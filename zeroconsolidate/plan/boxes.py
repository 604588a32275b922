"""Strided pieces of tensors -> boxes, which are proven to tile the whole and can be copied.

A piece says: elements `(i, j, …)` of a box lie at `offset + i * stride_i + j * stride_j + …` of the whole tensor,
and with other offset and strides in a part. Both sides count elements in row-major order:

    whole [2, 6]                      part 0 [2, 3]        part 1 [2, 3]        cut along dimension 1
    | a b c | d e f |                 | a b c |            | d e f |
    | g h i | j k l |                 | g h i |            | j k l |

    piece of part 1: box (2, 3), whole: offset 3, strides (6, 1); part: offset 0, strides (3, 1)

For the proof every position of the whole is written with mixed digits, one for each stride that occurs: here
position 9 = 1 * 6 + 3 has the digits (1, 3). In digits a piece is a product of intervals, and products of
intervals are easy to compare: two overlap exactly if they do in every digit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from ..errors import Disagreement

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True, slots=True)
class Axis:
    """One dimension of a box: `numel` steps, each `step` elements of the whole and `part_step` of the part."""

    numel: int
    step: int
    part_step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """Elements that a part contributes to the whole. Axes by falling `step`; steps are nested (each is at least
    the span of the axes behind it), so that positions in the whole rise in row-major order of the axes."""

    start: int
    """Element of the whole."""
    part_start: int
    """Element of the part."""
    axes: tuple[Axis, ...]

    @property
    def numel(self) -> int:
        return math.prod(axis.numel for axis in self.axes)

    @property
    def span(self) -> int:
        """Elements of the whole from the first to the last, inclusive."""
        return span_of(self.axes)


def span_of(axes: Sequence[Axis]) -> int:
    """Elements of the whole from the first to the last of a box with these axes, inclusive."""
    return 1 + sum((axis.numel - 1) * axis.step for axis in axes)


def boxes_of(shape: Sequence[int], whole: tuple[int, Sequence[int]], part: tuple[int, Sequence[int]]) -> list[Box]:
    """The box of a piece, or none if it is empty; `whole` and `part` are (offset, strides).

    Raises Disagreement if the piece is not nested.
    """
    if 0 in shape:
        return []
    axes = [Axis(n, step, part_step) for n, step, part_step in zip(shape, whole[1], part[1], strict=True) if n != 1]
    axes.sort(key=lambda axis: -axis.step)
    merged: list[Axis] = []
    for axis in axes:
        outer = merged[-1] if merged else None
        if outer and outer.step == axis.numel * axis.step and outer.part_step == axis.numel * axis.part_step:
            merged[-1] = Axis(outer.numel * axis.numel, axis.step, axis.part_step)
        else:
            merged.append(axis)
    for index, axis in enumerate(merged):
        if axis.step < span_of(merged[index + 1 :]) or axis.part_step < 1:
            raise Disagreement(
                "a piece of the tensor overlaps itself", found=f"the shape {tuple(shape)}, strides {whole[1]}"
            )
    return [Box(start=whole[0], part_start=part[0], axes=tuple(merged))]


def tile(boxes: Sequence[Box], numel: int) -> None:
    """Prove that the boxes cover each element of a tensor of `numel` elements exactly once. Raises Disagreement."""
    held = sum(box.numel for box in boxes)
    if held != numel:
        raise Disagreement("the parts do not add up to the tensor", expected=f"{numel} elements", found=held)
    if not numel:
        return
    if min(box.start for box in boxes) < 0 or max(box.start + box.span for box in boxes) > numel:
        raise Disagreement(f"a part reaches past the tensor of {numel} elements")
    radices = _radices(boxes, numel)
    intervals = [_intervals(box, radices) for box in boxes]
    for one, other in combinations(intervals, 2):
        if all(a < d and c < b for (a, b), (c, d) in zip(one, other, strict=True)):
            raise Disagreement("two parts hold the same elements of the tensor, and others are held by none")


def _radices(boxes: Iterable[Box], numel: int) -> list[int]:
    """The strides that occur, falling, each a multiple of the next; the first digit is not bounded by another."""
    steps = sorted({axis.step for box in boxes for axis in box.axes} | {1}, reverse=True)
    for wide, narrow in zip([numel, *steps], steps, strict=False):
        if wide % narrow:
            raise Disagreement("the parts are cut in a way that is not understood", found=f"the strides {steps}")
    return steps


def _intervals(box: Box, radices: Sequence[int]) -> list[tuple[int, int]]:
    """The box as one interval a digit. Axes are nested (:func:`boxes_of`), so each has digits of its own."""
    rest, intervals = box.start, []
    for radix in radices:
        digit, rest = divmod(rest, radix)
        intervals.append((digit, digit + 1))
    for axis in reversed(box.axes):
        position, count = radices.index(axis.step), axis.numel
        while True:
            first = intervals[position][0]
            room = radices[position - 1] // radices[position] if position else None
            if room is None or first + count <= room:
                intervals[position] = (first, first + count)
                break
            # Whole rows: the axis fills this digit and goes on in the next wider one.
            if first or count % room:
                raise Disagreement(
                    "the parts are cut in a way that is not understood", consequence="a piece begins inside a row"
                )
            intervals[position] = (0, room)
            position, count = position - 1, count // room
    return intervals
