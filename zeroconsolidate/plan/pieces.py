"""Copies and recipes: a recipe yields copies, a copy says which elements of a file go where in a tensor."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from ..dtypes import DType
from ..errors import DamagedFile, PlanBroken

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..archive.located import LocatedTensor

ZEROS = "<zeros>"
"""The name of an input that holds zeros only, without end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """`count` runs of `run_numel` elements, from one input file to one tensor.

    Run i begins at byte `file_start + i * file_step * dtype.itemsize` of `file` and at element
    `start + i * step` of the tensor. One run (`count == 1`) is an extent of the file.
    """

    file: str
    file_start: int
    """Byte of the file."""
    dtype: DType
    """Of the elements in the file."""
    big_endian: bool
    start: int
    """Element of the tensor, counted in row-major order."""
    run_numel: int
    count: int = 1
    file_step: int = 0
    """Elements from the start of one run to that of the next, in the file."""
    step: int = 0
    """Elements from the start of one run to that of the next, in the tensor."""

    @property
    def numel(self) -> int:
        return self.run_numel * self.count

    @property
    def nbytes(self) -> int:
        """Bytes that are read from the file."""
        return self.numel * self.dtype.itemsize


class Recipe(Protocol):
    """How a tensor's elements are obtained from input files. Frozen, small, and picklable."""

    @property
    def numel(self) -> int:
        """Elements of the tensor."""

    @property
    def dtype(self) -> DType:
        """Of the tensor. A copy of another floating-point dtype is cast to it."""

    @property
    def is_plain(self) -> bool:
        """Whether the tensor's bytes are extents of files laid end to end: no gaps, no foreign byte order."""

    @property
    def is_copied(self) -> bool:
        """Whether its copies are its elements. Any other recipe needs a reader of its own (`run/reader.py`)."""

    @property
    def input_bytes(self) -> int:
        """Bytes of files that are read to make the tensor once."""

    @property
    def memory_bytes(self) -> int:
        """An upper bound for the memory that making it takes, without the executor's blocks."""

    def copies(self, start: int = 0, stop: int | None = None) -> Iterator[Copy]:
        """The copies that make elements `[start, stop)`; their own `start` counts from element 0 of the tensor.

        They cover the interval exactly once. Nothing of it is stored: 1,024 ranks times 2,000 parameters are
        two million copies. Raises PlanBroken for a tensor that is computed from others.
        """


class Copied:
    """What the recipes have in common that copy each element from a file."""

    __slots__ = ()

    @property
    def is_copied(self) -> bool:
        return True

    @property
    def input_bytes(self: Recipe) -> int:
        return self.numel * self.dtype.itemsize

    @property
    def memory_bytes(self) -> int:
        return 0


def share_bytes(recipe: Recipe, numel: int) -> int:
    """What is read for so many of a recipe's elements."""
    return recipe.input_bytes * numel // max(recipe.numel, 1)


def refuse_mixed(partitions: Sequence[LocatedTensor]) -> None:
    """The ranks' partitions of a flat group are of one dtype and byte order. Raises DamagedFile."""
    dtypes = {(partition.dtype, partition.storage.big_endian) for partition in partitions}
    if len(dtypes) != 1:
        raise DamagedFile("the ranks' partitions differ in dtype", found=sorted(d.code for d, _ in dtypes))


@dataclass(frozen=True, slots=True)
class View(Copied):
    """A whole tensor as it lies in a file, contiguous or strided."""

    tensor: LocatedTensor

    @property
    def numel(self) -> int:
        return self.tensor.numel

    @property
    def dtype(self) -> DType:
        return self.tensor.dtype

    @property
    def is_plain(self) -> bool:
        return self.tensor.is_contiguous and not self.tensor.storage.big_endian

    def copies(self, start: int = 0, stop: int | None = None) -> Iterator[Copy]:
        """One copy for a contiguous tensor, else one for each row (the last dimension that is not 1)."""
        stop = self.numel if stop is None else stop
        tensor = self.tensor
        if start >= stop:
            return
        if tensor.is_contiguous:
            yield self._copy(offset=start, start=start, run_numel=stop - start)
            return
        dims = [(n, step) for n, step in zip(tensor.shape, tensor.stride, strict=True) if n != 1]
        row_numel, element_step = dims.pop()
        for row in range(start // row_numel, -(-stop // row_numel)):
            first = max(start - row * row_numel, 0)
            last = min(stop - row * row_numel, row_numel)
            offset, rest = first * element_step, row
            for n, step in reversed(dims):
                rest, index = divmod(rest, n)
                offset += index * step
            at = row * row_numel + first
            if element_step == 1:
                yield self._copy(offset=offset, start=at, run_numel=last - first)
            else:
                yield self._copy(
                    offset=offset, start=at, run_numel=1, count=last - first, file_step=element_step, step=1
                )

    def _copy(
        self, *, offset: int, start: int, run_numel: int, count: int = 1, file_step: int = 0, step: int = 0
    ) -> Copy:
        return Copy(
            file=self.tensor.file,
            file_start=self.tensor.start + offset * self.tensor.dtype.itemsize,
            dtype=self.tensor.dtype,
            big_endian=self.tensor.storage.big_endian,
            start=start,
            run_numel=run_numel,
            count=count,
            file_step=file_step,
            step=step,
        )


@dataclass(frozen=True, slots=True)
class Rows:
    """Runs of rows of other tensors, end to end. A run is (tensor, first row, number of rows).

    Tensors of different dtypes are copied in one that holds the numbers of each.
    """

    of: tuple[Recipe, ...]
    row_numel: int
    runs: tuple[tuple[int, int, int], ...]

    @property
    def numel(self) -> int:
        return self.row_numel * sum(rows for _, _, rows in self.runs)

    @property
    def dtype(self) -> DType:
        return DType.holding(recipe.dtype for recipe in self.of)

    @property
    def is_plain(self) -> bool:
        dtype = self.dtype
        return all(recipe.is_plain and recipe.dtype is dtype for recipe in self.of)

    @property
    def is_copied(self) -> bool:
        return all(recipe.is_copied for recipe in self.of)

    @property
    def input_bytes(self) -> int:
        taken = [0] * len(self.of)
        for number, _, rows in self.runs:
            taken[number] += rows * self.row_numel
        return sum(share_bytes(recipe, numel) for recipe, numel in zip(self.of, taken, strict=True))

    @property
    def memory_bytes(self) -> int:
        return sum(recipe.memory_bytes for recipe in self.of)

    def copies(self, start: int = 0, stop: int | None = None) -> Iterator[Copy]:
        """The copies of each run that the interval touches, shifted to the run's position."""
        stop = self.numel if stop is None else stop
        here = 0
        for number, first_row, rows in self.runs:
            upto = here + rows * self.row_numel
            if here < stop and upto > start:
                moved = here - first_row * self.row_numel
                for copy in self.of[number].copies(max(start, here) - moved, min(stop, upto) - moved):
                    yield replace(copy, start=copy.start + moved)
            here = upto


def covers_once(recipe: Recipe) -> None:
    """Prove that the copies of a recipe cover each element exactly once. Raises PlanBroken.

    Runs that interleave (a step beyond the run) are proven by counting each element, so this is for tests and
    for `show_plan`; execution checks plain tensors as it goes.
    """
    position = 0
    rest: list[Copy] = []
    for copy in recipe.copies():
        # Parts of one column each interleave in single elements: they are counted as well.
        if rest or copy.start != position or (copy.count > 1 and copy.step != copy.run_numel):
            rest.append(copy)
            continue
        position = copy.start + copy.numel
    if not rest and position != recipe.numel:
        raise PlanBroken("the copies end early", expected=f"{recipe.numel} elements", found=position)
    starts = [(copy.start + run * copy.step, copy.run_numel) for copy in rest for run in range(copy.count)]
    elements = [element for start, numel in starts for element in range(start, start + numel)]
    if sorted(elements) != list(range(position, recipe.numel)):
        raise PlanBroken("the copies overlap, leave a gap, or lie outside of the tensor")
