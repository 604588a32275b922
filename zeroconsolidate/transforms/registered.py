"""Recipe class -> its reader, for the recipes of this package. numpy is imported when a reader is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..run.reader import reader
from .averaged import Averaged
from .dequantized import Dequantized
from .quantized import Listed, Quantized, Scales

if TYPE_CHECKING:
    from ..run.inputs import Inputs
    from ..run.reader import Reader


@reader.register(Averaged)
def _averaged(recipe: Averaged, inputs: Inputs) -> Reader:
    from .averaging import AveragedReader

    return AveragedReader(recipe, inputs)


@reader.register(Quantized)
def _quantized(recipe: Quantized, inputs: Inputs) -> Reader:
    from .quantizing import QuantizedReader

    return QuantizedReader(recipe, inputs)


@reader.register(Scales)
def _scales(recipe: Scales, inputs: Inputs) -> Reader:
    from .quantizing import ScalesReader

    return ScalesReader(recipe, inputs)


@reader.register(Listed)
def _listed(recipe: Listed, inputs: Inputs) -> Reader:
    from .quantizing import ListedReader

    return ListedReader(recipe, inputs)


@reader.register(Dequantized)
def _dequantized(recipe: Dequantized, inputs: Inputs) -> Reader:
    from .dequantizing import DequantizedReader

    return DequantizedReader(recipe, inputs)
