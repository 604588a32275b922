"""Tensors made of rows of others: how the hub's layout is cut out of what transformers 5 holds in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..errors import UnsupportedLayout, at
from .build import Selection, Source

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ..catalog.facts import Shape
    from ..dtypes import DType
    from .pieces import Copy, Recipe


@dataclass(frozen=True, slots=True)
class Rows:
    """Runs of rows of other tensors, end to end. A run is (tensor, first row, number of rows)."""

    of: tuple[Recipe, ...]
    row_numel: int
    runs: tuple[tuple[int, int, int], ...]

    @property
    def numel(self) -> int:
        return self.row_numel * sum(rows for _, _, rows in self.runs)

    @property
    def dtype(self) -> DType:
        return self.of[0].dtype

    @property
    def is_plain(self) -> bool:
        return all(recipe.is_plain for recipe in self.of)

    def copies(self, start: int = 0, stop: int | None = None) -> Iterator[Copy]:
        """The copies of each run that the interval touches, moved to where the run stands."""
        stop = self.numel if stop is None else stop
        here = 0
        for number, first_row, rows in self.runs:
            upto = here + rows * self.row_numel
            if here < stop and upto > start:
                moved = here - first_row * self.row_numel
                for copy in self.of[number].copies(max(start, here) - moved, min(stop, upto) - moved):
                    yield replace(copy, start=copy.start + moved)
            here = upto


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """How one tensor of the hub's layout is made of tensors in memory."""

    output: str
    shape: Shape
    inputs: tuple[str, ...]
    row_numel: int
    runs: tuple[tuple[int, int, int], ...]
    opaque: bool
    """Whether rows cannot say how: it reorders elements inside them, or computes. `inputs` are then what is known."""


def to_hub(selection: Selection, conversions: Sequence[Conversion]) -> Selection:
    """Replace tensors by what the hub's layout makes of them, where the first of them stood.

    A tensor is written as it is if another that it would be joined with is not selected. Raises UnsupportedLayout for
    what an opaque conversion would have to make.
    """
    by_input: dict[str, list[Conversion]] = {}
    for conversion in conversions:
        if all(name in selection.named for name in conversion.inputs):
            _refuse_opaque(conversion)
            for name in conversion.inputs:
                by_input.setdefault(name, []).append(conversion)
    named: dict[str, Source] = {}
    for name, source in selection.named.items():
        if name not in by_input:
            named[name] = source
        for conversion in by_input.get(name, ()):
            if conversion.output not in named:
                named[conversion.output] = _converted(conversion, selection.named)
    return Selection(named=named, left_out=selection.left_out)


def _converted(conversion: Conversion, named: Mapping[str, Source]) -> Source:
    sources = [named[name] for name in conversion.inputs]
    return Source(
        name=sources[0].name,
        shape=conversion.shape,
        recipe=Rows(tuple(source.recipe for source in sources), conversion.row_numel, conversion.runs),
        role=sources[0].role,
    )


def _refuse_opaque(conversion: Conversion) -> None:
    if conversion.opaque:
        with at(conversion.output):
            raise UnsupportedLayout(
                "transformers keeps this tensor in memory with its elements in another order than the hub's files, "
                "which cannot be streamed; write transformers 5's own layout with --names in-memory"
            )
