"""Tensors in the layout that transformers 5 has in memory -> tensors in the hub's layout, made of their rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import UnsupportedLayout, at
from ..plan.build import Selection, Source
from ..plan.pieces import Rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..catalog.facts import Shape
    from .expectation import Expectation


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """How one tensor of the hub's layout is made from tensors in memory."""

    output: str
    shape: Shape
    inputs: tuple[str, ...]
    row_numel: int
    runs: tuple[tuple[int, int, int], ...]
    opaque: bool
    """Whether it is more than copying rows: it reorders elements inside them, or computes. Then only `inputs` is
    known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """What transformers says of a config."""

    expectation: Expectation
    """The names that its model has in memory."""
    hub: Expectation
    """The names in its files: the same, except for what transformers 5 changes on loading."""
    conversions: tuple[Conversion, ...]
    """How the tensors in memory become those in files."""
    class_name: str = ""
    """What transformers calls the class."""
    labels: int = 0
    """How many labels its config has, which decides the shapes of a classifier's head."""
    linears: frozenset[str] = frozenset()
    """The weights of linear layers, by their names in memory. The built-in table has none."""

    def linears_in_files(self) -> dict[str, str]:
        """The weights of linear layers in the hub's layout, name in files -> name in memory. Matrices that are rows of
        a stack of experts in memory are such weights, too."""
        found = {name: name for name in self.hub.shapes if name in self.linears}
        for conversion in self.conversions:
            if len(conversion.shape) == 2 and conversion.output.endswith(".weight") and not conversion.opaque:
                shapes = [self.expectation.shapes.get(name) for name in conversion.inputs]
                is_expert = all(shape is not None and len(shape) == 3 for shape in shapes)
                if is_expert or self.linears.issuperset(conversion.inputs):
                    found[conversion.output] = conversion.inputs[0]
        return found


def to_hub(selection: Selection, conversions: Sequence[Conversion]) -> Selection:
    """Replace tensors by those of the hub's layout that are made from them, at the position of the first.

    A tensor is written as it is if one that it would be joined with is not selected. Raises UnsupportedLayout if an
    opaque conversion would be needed.
    """
    by_input: dict[str, list[Conversion]] = {}
    for conversion in conversions:
        if all(name in selection.named for name in conversion.inputs):
            refuse_opaque(conversion)
            for name in conversion.inputs:
                by_input.setdefault(name, []).append(conversion)
    named: dict[str, Source] = {}
    for name, source in selection.named.items():
        if name not in by_input:
            named[name] = source
        for conversion in by_input.get(name, ()):
            if conversion.output not in named:
                named[conversion.output] = converted(conversion, selection.named)
    return Selection(named=named, left_out=selection.left_out)


def converted(conversion: Conversion, named: Mapping[str, Source]) -> Source:
    """A tensor of the hub's layout, made from rows of tensors in `named`."""
    sources = [named[name] for name in conversion.inputs]
    return Source(
        name=sources[0].name,
        shape=conversion.shape,
        recipe=Rows(tuple(source.recipe for source in sources), conversion.row_numel, conversion.runs),
        role=sources[0].role,
    )


def refuse_opaque(conversion: Conversion) -> None:
    """Raises UnsupportedLayout for a conversion that is more than copying rows."""
    if conversion.opaque:
        with at(conversion.output):
            raise UnsupportedLayout(
                (
                    "transformers has the elements of this tensor in another order in memory than in the hub's files, "
                    "and reordering them is not supported"
                ),
                remedy="write transformers 5's own layout with --names in-memory",
            )
