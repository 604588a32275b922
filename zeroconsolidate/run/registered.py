"""Recipe class -> its reader, for the plan's recipes that are not always copied. numpy is imported by the readers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..plan.joined import Mean, Section
from ..plan.pieces import Rows
from .reader import copying, reader

if TYPE_CHECKING:
    from .inputs import Inputs
    from .reader import Reader


@reader.register(Section)
def _section(recipe: Section, inputs: Inputs) -> Reader:
    from .composed import SectionReader

    return SectionReader(recipe, inputs)


@reader.register(Rows)
def _rows(recipe: Rows, inputs: Inputs) -> Reader:
    if recipe.is_copied:
        return copying(recipe, inputs)
    from .composed import RowsReader

    return RowsReader(recipe, inputs)


@reader.register(Mean)
def _mean(recipe: Mean, inputs: Inputs) -> Reader:
    from .composed import MeanReader

    return MeanReader(recipe, inputs)
