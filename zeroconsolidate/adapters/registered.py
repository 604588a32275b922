"""Recipe class -> its reader, for the recipes of this package. torch is imported when a reader is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..run.reader import reader
from .recipes import Merged, OfModule, RowsReplaced, Shifted

if TYPE_CHECKING:
    from ..run.inputs import Inputs
    from ..run.reader import Reader


@reader.register(Merged)
def _merged(recipe: Merged, inputs: Inputs) -> Reader:
    from .readers import MergedReader

    return MergedReader(recipe, inputs)


@reader.register(RowsReplaced)
def _rows_replaced(recipe: RowsReplaced, inputs: Inputs) -> Reader:
    from .readers import RowsReplacedReader

    return RowsReplacedReader(recipe, inputs)


@reader.register(Shifted)
def _shifted(recipe: Shifted, inputs: Inputs) -> Reader:
    from .readers import ShiftedReader

    return ShiftedReader(recipe, inputs)


@reader.register(OfModule)
def _of_module(recipe: OfModule, inputs: Inputs) -> Reader:
    from .by_peft import OfModuleReader

    return OfModuleReader(recipe, inputs)
