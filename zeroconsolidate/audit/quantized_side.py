"""The tensors of a quantized model -> the weights that they stand for, where the format is known.

Known are numbers of 8 bits with float scales: compressed-tensors' `float-quantized`, `int-quantized` and
`pack-quantized`, with a scale for a row, a block or the tensor, and `quant_method: fp8` of DeepSeek and Qwen. What is
stored in another format (gptq, awq, bitsandbytes, mxfp4) says nothing about a weight, and is never compared with one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..archive.model_config import has_config, read_config
from ..archive.model_files import CONFIG
from ..archive.phrases import counted, listed
from ..dtypes import DType
from ..errors import ZeroConsolidateError
from ..outputs.gate.quantized import quantization_of
from ..plan.sources import Source
from ..run.elements import read_all
from ..run.inputs import Inputs
from ..transforms.dequantized import NUMBERS_A_WORD, Dequantized

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..catalog.facts import Shape
    from ..outputs.gate.quantized import Quantization

_NUMBERS = {"compressed-tensors": (DType.F8_E4M3, DType.I8), "fp8": (DType.F8_E4M3,)}
"""By `quant_method`. With the second, an int8 is two numbers of four bits."""
_WIDE = (DType.I64, DType.U64)
"""Counters and positions, which no format has as numbers of a weight."""
_BITS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Unquantized:
    """What became of a directory's tensors."""

    tensors: Mapping[str, Source]
    """By name, each weight that is understood in place of its numbers and scales."""
    schemes: Mapping[str, str]
    """Names of these weights -> how they are quantized, in words."""
    stored: frozenset[str]
    """Names of tensors that only have a meaning together, in a format that is not known here."""
    what: str
    """How the model is quantized, in words; empty if it is not."""
    notes: tuple[str, ...]


def unquantized(tensors: Mapping[str, Source], directory: str, path: str) -> Unquantized:
    """The tensors of a model directory, as far as config.json tells how they are quantized. `path`: for notes.

    A model's modules may have folders of their own, each with a config.json.
    Raises DamagedFile for files that cannot be read.
    """
    found: dict[str, Source] = {}
    schemes: dict[str, str] = {}
    stored: set[str] = set()
    methods: dict[str, None] = {}
    for folder in dict.fromkeys(os.path.dirname(name) for name in tensors):
        own = {name: source for name, source in tensors.items() if os.path.dirname(name) == folder}
        inside = os.path.join(directory, folder) if folder else directory
        method = _method(inside)
        if method is not None:
            methods[method] = None
            own, as_weights, others = _folder(own, quantization_of(inside))
            schemes |= as_weights
            stored |= others
        found |= own
    if not methods:
        return Unquantized(tensors=tensors, schemes={}, stored=frozenset(), what="", notes=())
    modules = list(dict.fromkeys(_module(name) for name in tensors if name in stored))
    notes: tuple[str, ...] = ()
    if modules:
        notes = (
            f"{path}: {counted(len(modules), 'module')} quantized in a format that is not known here "
            f"({', '.join(methods)}): {listed(modules, 2)}. What is stored of them is not compared as weights",
        )
    return Unquantized(
        tensors=found, schemes=schemes, stored=frozenset(stored), what=_words(schemes, list(methods)), notes=notes
    )


def _words(schemes: Mapping[str, str], methods: list[str]) -> str:
    if not schemes:
        return f"quantized: {', '.join(methods)}"
    numbers: dict[str, int] = {}
    for scheme in schemes.values():
        numbers[scheme] = numbers.get(scheme, 0) + 1
    several = [f"{scheme}, {counted(number, 'layer')}" for scheme, number in numbers.items()]
    return f"quantized: {', '.join(several)}, dequantized to compare"


def _method(directory: str) -> str | None:
    """`quant_method` of its config.json; None if nothing there is quantized."""
    if not has_config(directory):
        return None
    try:
        config: Any = read_config(os.path.join(directory, CONFIG))
    except (ZeroConsolidateError, OSError):
        return None  # `verify` says what is wrong with it
    stated = config.get("quantization_config") if isinstance(config, dict) else None
    if not isinstance(stated, dict):
        return None
    method = stated.get("quant_method")
    return method[:40] if isinstance(method, str) and method else "no quant_method"


def _folder(
    tensors: Mapping[str, Source], stated: Quantization | None
) -> tuple[dict[str, Source], dict[str, str], set[str]]:
    """(tensors, schemes, stored) of one config.json."""
    modules: dict[str, dict[str, Source]] = {}
    for name, source in tensors.items():
        modules.setdefault(_module(name), {})[name.rpartition(".")[2]] = source
    found: dict[str, Source] = {}
    schemes: dict[str, str] = {}
    stored: set[str] = set()
    for module, parts in modules.items():
        prefix = f"{module}." if module else ""
        made = None if stated is None else _weight(f"{prefix}weight", parts, stated)
        if made is not None:
            source, used = made
            found[source.name] = source
            schemes[source.name] = _scheme(source)
            parts = {part: other for part, other in parts.items() if part not in used}
        elif any(_is_number(source) for source in parts.values()):
            stored |= {f"{prefix}{part}" for part in parts if not part.endswith("bias")}
        found |= {f"{prefix}{part}": source for part, source in parts.items()}
    return found, schemes, stored


def _weight(name: str, parts: Mapping[str, Source], stated: Quantization) -> tuple[Source, tuple[str, ...]] | None:
    """The weight of a module, and which parts it is made of; None if it is not quantized in a way known here."""
    scale = "weight_scale_inv" if "weight_scale_inv" in parts else "weight_scale"
    part = "weight_packed" if "weight_packed" in parts else "weight"
    numbers, scales = parts.get(part), parts.get(scale)
    if numbers is None or scales is None or "weight_zero_point" in parts or "weight_g_idx" in parts:
        return None
    if stated.bits != _BITS:
        return None
    shape = _packed_shape(numbers, parts) if part == "weight_packed" else _plain_shape(numbers, stated)
    block = None if shape is None else _block(shape, scales, stated)
    if shape is None or block is None:
        return None
    rows, columns = shape
    recipe = Dequantized(base=numbers.recipe, scales=scales.recipe, rows=rows, columns=columns, block=block)
    source = Source(name=name, shape=shape, recipe=recipe, role=numbers.role)
    return source, (part, scale, *(("weight_shape",) if part == "weight_packed" else ()))


def _plain_shape(numbers: Source, stated: Quantization) -> Shape | None:
    is_known = len(numbers.shape) == 2 and numbers.recipe.dtype in _NUMBERS[stated.method]
    return numbers.shape if is_known else None


def _packed_shape(numbers: Source, parts: Mapping[str, Source]) -> Shape | None:
    """What `weight_shape` says, if the words have room for that and no more."""
    shape = parts.get("weight_shape")
    if len(numbers.shape) != 2 or numbers.recipe.dtype is not DType.I32:
        return None
    if shape is None or shape.shape != (2,) or shape.recipe.dtype not in (DType.I64, DType.I32):
        return None
    with Inputs() as inputs:
        rows, columns = (int(n) for n in read_all(shape.recipe, inputs))
    fits = rows == numbers.shape[0] and columns >= 0 and -(-columns // NUMBERS_A_WORD) == numbers.shape[1]
    return (rows, columns) if fits else None


def _block(shape: Shape, scales: Source, stated: Quantization) -> Shape | None:
    """Rows and columns that share a scale, if there are as many scales as that makes."""
    rows, columns = shape
    if not scales.recipe.dtype.is_floating:
        return None
    if stated.strategy == "tensor" and scales.recipe.numel == 1:
        return max(rows, 1), max(columns, 1)
    if stated.strategy == "channel" and scales.shape in ((rows, 1), (rows,)):
        return 1, max(columns, 1)
    if stated.strategy == "block" and len(stated.block) == 2:
        high, wide = stated.block
        return stated.block if scales.shape == (-(-rows // high), -(-columns // wide)) else None
    return None


def _scheme(source: Source) -> str:
    """As `--quantize` calls it, where it does."""
    recipe = source.recipe
    if not isinstance(recipe, Dequantized):
        return ""
    kind = "int8" if recipe.stored_dtype is DType.I8 else "fp8"
    if recipe.block == (1, max(recipe.columns, 1)):
        return kind
    if recipe.block == (max(recipe.rows, 1), max(recipe.columns, 1)):
        return f"{kind} with one scale"
    return f"{kind}-block"


def _is_number(source: Source) -> bool:
    dtype = source.recipe.dtype
    return dtype.kind == "float8" or (dtype.kind == "integer" and dtype not in _WIDE)


def _module(name: str) -> str:
    return name.rpartition(".")[0]
