"""Recipe class -> its reader, for the recipes of this package. numpy is imported when a reader is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..run.reader import reader
from .averaged import Averaged

if TYPE_CHECKING:
    from ..run.inputs import Inputs
    from ..run.reader import Reader


@reader.register(Averaged)
def _averaged(recipe: Averaged, inputs: Inputs) -> Reader:
    from .averaging import AveragedReader

    return AveragedReader(recipe, inputs)
