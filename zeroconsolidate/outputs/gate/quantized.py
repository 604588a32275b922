"""Quantized weights in headers -> the weights that they stand for, so that names and shapes can be compared.

The formats are compressed-tensors' (`weight` or `weight_packed`, with `weight_scale`) and that of DeepSeek (`weight`
with `weight_scale_inv`). A loader makes a quantized layer of every linear one that the config does not except. Where a
scale is missing it takes whatever is in memory, and says nothing.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ...archive.model_config import MAX_CONFIG_BYTES, parse, short_int
from ...archive.model_files import CONFIG
from ...archive.regular import read_small
from ...dtypes import DType
from ...errors import DamagedFile
from .finding import Finding, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ...catalog.facts import Shape

_COMPANIONS = ("weight_scale", "weight_scale_inv", "weight_zero_point", "weight_shape", "weight_packed")
_EIGHT_BITS = (DType.F8_E4M3, DType.F8_E5M2, DType.I8)


class Held(Protocol):
    """A tensor, as far as a header tells."""

    @property
    def shape(self) -> Shape:
        """Its shape."""

    @property
    def dtype(self) -> DType:
        """Its dtype."""


@dataclass(frozen=True, slots=True)
class Dense:
    """A weight that is quantized, as it was."""

    shape: Shape
    dtype: DType = DType.F32


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """What config.json says of quantized weights."""

    method: str
    """`compressed-tensors` or `fp8`."""
    excepted: tuple[str, ...]
    """Modules, or patterns of them, that are not quantized."""
    strategy: str
    """What shares a scale: `channel`, `block`, or something else."""
    block: Shape
    """Rows and columns of a block."""
    bits: int

    def excepts(self, module: str) -> bool:
        """Whether the config leaves a module as it is."""
        for each in self.excepted:
            if each.startswith("re:"):
                if re.match(each.removeprefix("re:"), module):
                    return True
            elif module == each or (self.method == "fp8" and module.startswith(f"{each}.")):
                return True
        return False


def quantization_of(directory: str) -> Quantization | None:
    """What `directory`/config.json says; None if it says nothing, or of a format that is not known here."""
    try:
        config = parse(read_small(os.path.join(directory, CONFIG), MAX_CONFIG_BYTES), parse_int=short_int)
    except (DamagedFile, OSError):
        return None
    stated = config.get("quantization_config") if isinstance(config, dict) else None
    if not isinstance(stated, dict):
        return None
    if stated.get("quant_method") == "fp8":
        block = _shape(stated.get("weight_block_size"))
        return Quantization(
            method="fp8",
            excepted=_texts(stated.get("modules_to_not_convert")),
            strategy="block" if block else "tensor",
            block=block,
            bits=8,
        )
    groups = stated.get("config_groups")
    if stated.get("quant_method") != "compressed-tensors" or not isinstance(groups, dict) or len(groups) != 1:
        return None
    (group,) = groups.values()
    weights = group.get("weights") if isinstance(group, dict) else None
    if not isinstance(weights, dict) or group.get("targets") != ["Linear"]:
        return None
    return Quantization(
        method="compressed-tensors",
        excepted=_texts(stated.get("ignore")),
        strategy=str(weights.get("strategy")),
        block=_shape(weights.get("block_structure")),
        bits=weights["num_bits"] if isinstance(weights.get("num_bits"), int) else 0,
    )


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(each for each in value if isinstance(each, str)) if isinstance(value, list) else ()


def _shape(value: Any) -> Shape:
    """Two sizes; empty if it is something else."""
    is_one = isinstance(value, list) and len(value) == 2 and all(isinstance(n, int) and n > 0 for n in value)
    return tuple(value) if is_one else ()


def dense(
    tensors: Mapping[str, Held], expected: Mapping[str, Shape | None], stated: Quantization | None
) -> dict[str, Held]:
    """The tensors with each quantized weight as the one that it stands for, and without what belongs to it.

    `expected`: shapes, for a packed weight does not tell how much of its last word counts.
    """
    if stated is None:
        return dict(tensors)
    found: dict[str, Held] = {}
    for name, tensor in tensors.items():
        module, _, part = name.rpartition(".")
        if part == "weight_packed" and stated.bits and len(tensor.shape) == 2:
            weight = f"{module}.weight"
            found[weight] = Dense(_unpacked(tensor.shape, expected.get(weight), stated.bits))
        elif part == "weight" and tensor.dtype in _EIGHT_BITS and _scale_of(module, tensors) is not None:
            found[name] = Dense(tensor.shape)
        elif part not in _COMPANIONS or not _is_quantized(module, tensors):
            found[name] = tensor
    return found


def problems(tensors: Mapping[str, Held], stated: Quantization | None, linears: Mapping[str, str]) -> Iterator[Finding]:
    """What of quantized weights no loader would understand. `linears`: the weights of linear layers, name in files ->
    name in memory; empty if they are not known."""
    if stated is None:
        return
    quantized = [module for module in map(_module, tensors) if module and _is_quantized(module, tensors)]
    for module in dict.fromkeys(quantized):
        yield from _misfits(module, tensors, stated)
        if stated.excepts(module) or stated.excepts(_module(linears.get(f"{module}.weight", ""))):
            text = f"config.json: {module} is not to be quantized, but its weight is"
            yield Finding(kind=Kind.CONFIG, text=text)
    for name, memory in linears.items():
        module = _module(name)
        is_excepted = stated.excepts(module) or stated.excepts(_module(memory))
        if name in tensors and not _is_quantized(module, tensors) and not is_excepted:
            text = f"config.json: {module} is to be quantized, but its weight is not: a loader would use a random scale"
            yield Finding(kind=Kind.CONFIG, text=text)


def _misfits(module: str, tensors: Mapping[str, Held], stated: Quantization) -> Iterator[Finding]:
    scale = _scale_of(module, tensors)
    packed, weight = tensors.get(f"{module}.weight_packed"), tensors.get(f"{module}.weight")
    held = weight if packed is None else packed
    if held is None or scale is None:
        lack = "weight_scale" if scale is None else "weight"
        text = f"{module}.{lack} is in no file: without it the quantized weight cannot be computed"
        yield Finding(kind=Kind.MISSING, text=text)
        return
    if packed is not None and tensors.get(f"{module}.weight_shape", Dense(())).shape != (2,):
        yield Finding(kind=Kind.MISSING, text=f"{module}.weight_shape is in no file, or is no shape")
    rows, columns = held.shape if len(held.shape) == 2 else (0, 0)
    wanted = None
    if stated.strategy == "channel":
        wanted = (rows, 1)
    elif stated.strategy == "block" and stated.block:
        wanted = (-(-rows // stated.block[0]), -(-columns // stated.block[1]))
    if (wanted is not None and scale.shape != wanted) or not scale.dtype.is_floating:
        got = f"{list(scale.shape)} of {scale.dtype.torch_name}"
        text = f"{module}: the scale does not fit; expected {list(wanted or scale.shape)} of floats, got {got}"
        yield Finding(kind=Kind.SHAPE, text=text)


def _is_quantized(module: str, tensors: Mapping[str, Held]) -> bool:
    return _scale_of(module, tensors) is not None or f"{module}.weight_packed" in tensors


def _scale_of(module: str, tensors: Mapping[str, Held]) -> Held | None:
    return tensors.get(f"{module}.weight_scale") or tensors.get(f"{module}.weight_scale_inv")


def _unpacked(packed: Shape, expected: Shape | None, bits: int) -> Shape:
    rows, words = packed
    if expected is not None and len(expected) == 2 and -(-expected[1] * bits // 32) == words:
        return rows, expected[1]
    return rows, words * 32 // bits


def _module(name: str) -> str:
    return name.rpartition(".")[0]
