"""What stands between brackets, `view[a:b, ..., 3]` -> which elements of a tensor are meant: numpy's basic indexing."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import TYPE_CHECKING, SupportsIndex, TypeAlias

from ..archive.located import row_major
from ..errors import BadIndex

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import EllipsisType

    from ..catalog.facts import Shape

    Key: TypeAlias = SupportsIndex | slice | EllipsisType | tuple[SupportsIndex | slice | EllipsisType, ...]

MAX_GAP_NUMEL = 1024
"""Elements that are read without having been asked for, between two that were: about a page of memory, which costs
less than a second read."""


@dataclass(frozen=True, slots=True)
class Axis:
    """The indices that are taken along one dimension."""

    first: int
    count: int
    step: int
    is_kept: bool
    """Whether the result has this dimension: an int takes it away."""


@dataclass(frozen=True, slots=True)
class Box:
    """Some elements of a tensor, as many as the product of the counts of its axes."""

    shape: Shape
    """Of the tensor."""
    axes: tuple[Axis, ...]
    """One for each of its dimensions."""

    @property
    def result_shape(self) -> Shape:
        """Of the result."""
        return tuple(axis.count for axis in self.axes if axis.is_kept)

    @property
    def counts(self) -> Shape:
        """Of elements along each dimension."""
        return tuple(axis.count for axis in self.axes)

    @property
    def pitches(self) -> Shape:
        """Elements of the tensor from one index to the next, along each dimension."""
        return tuple(axis.step * stride for axis, stride in zip(self.axes, row_major(self.shape), strict=True))

    def span_numel(self, outer: int) -> int:
        """Elements from the first to the last that are taken, at one index of each of the `outer` first dimensions."""
        inner = zip(self.counts[outer:], self.pitches[outer:], strict=True)
        return sum((count - 1) * pitch for count, pitch in inner) + 1

    def is_dense(self, outer: int) -> bool:
        """Whether all of a span is taken."""
        return self.span_numel(outer) == prod(self.counts[outer:])

    def outer(self, most_numel: int) -> int:
        """How many dimensions to go through index by index; the span of the others is best read at a time.

        A span of more than `most_numel` elements is only read where all of it is taken.
        """
        outer = len(self.axes)
        while outer and self.pitches[outer - 1] - self.span_numel(outer) <= MAX_GAP_NUMEL:
            outer -= 1
        while outer < len(self.axes) and not self.is_dense(outer) and self.span_numel(outer) > most_numel:
            outer += 1
        return outer

    def starts(self, outer: int) -> Iterator[int]:
        """The first element of each span, in row-major order."""
        first = sum(axis.first * step for axis, step in zip(self.axes, row_major(self.shape), strict=True))
        for index in product(*map(range, self.counts[:outer])):
            yield first + sum(n * pitch for n, pitch in zip(index, self.pitches, strict=False))


def box(key: Key, shape: Shape) -> Box:
    """The elements that `key` names in a tensor of this shape.

    Raises BadIndex for an index out of range, too many of them, a step below 1, or another kind of index.

    >>> box((slice(2, None), -1), (4, 3)).result_shape
    (2,)
    """
    parts: list[object] = list(key) if isinstance(key, tuple) else [key]
    dots = [position for position, part in enumerate(parts) if part is Ellipsis]
    if len(dots) > 1:
        raise BadIndex("an index has '...' more than once")
    if len(parts) - len(dots) > len(shape):
        raise BadIndex(
            "there are too many indices", expected=f"at most {len(shape)}, for the shape {list(shape)}",
            found=len(parts) - len(dots),
        )  # fmt: skip
    at = dots[0] if dots else len(parts)
    filling: list[object] = [slice(None)] * (len(shape) - len(parts) + len(dots))
    parts[at : at + len(dots)] = filling
    return Box(shape, tuple(_axis(part, n, dim) for dim, (part, n) in enumerate(zip(parts, shape, strict=True))))


def _axis(part: object, n: int, dim: int) -> Axis:
    if isinstance(part, slice):
        try:
            first, stop, step = part.indices(n)
        except (TypeError, ValueError) as error:
            raise BadIndex(f"a slice along dimension {dim} makes no sense: {error}") from None
        if step < 1:
            raise BadIndex(
                f"a slice along dimension {dim} goes backwards", expected="a step of at least 1", found=step,
                remedy="read it forwards, and flip it with torch.flip",
            )  # fmt: skip
        return Axis(first, len(range(first, stop, step)), step, True)
    try:
        if isinstance(part, bool):
            raise TypeError
        index = operator.index(part)  # type: ignore[arg-type]
    except TypeError:
        raise BadIndex(
            "an index is of a kind that is not understood before a tensor is read",
            expected="whole numbers, slices and '...'", found=type(part).__name__,
            remedy="read the tensor with load(), and index that",
        ) from None  # fmt: skip
    if not -n <= index < n:
        raise BadIndex(f"the index {index} is out of range for dimension {dim}, which has {n}")
    return Axis(index % n, 1, 1, False)
