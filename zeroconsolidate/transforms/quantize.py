"""Linear layers of a model's blocks -> weights of 8 bits with their scales, and the config that loaders read.

What stays as it is: embeddings, heads, norms, routers, and the towers of pictures and sound, as the libraries' own
recipes leave them.
"""

from __future__ import annotations

import re
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from ..archive.phrases import counted, listed
from ..errors import BadOption, UnsupportedLayout
from .quantized import BLOCK_SIDE, Listed, Quantized, Scales, Scheme
from .transform import Model, Transform

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..plan.sources import Source

SCHEMES = {"fp8": Scheme.FP8, "fp8-block": Scheme.FP8_BLOCK, "int8": Scheme.INT8}
"""As options name them."""
COMPRESSED_TENSORS = "0.19.0"
"""The release of compressed-tensors whose format is written, which its configs state."""

_IN_A_BLOCK = re.compile(r"\.\d+\.")
_ROUTER = re.compile(r"(?:^|\.)(?:gate|\w*_gate|\w*router\w*)(?:\.|$)")
_OTHER_SENSES = re.compile(r"(?:^|[._])(?:vision|visual|image|audio|speech|video|multi_modal_projector)(?:[._]|$)")


class Quantize(Transform):
    """Quantizes the weights of linear layers, as one of the SCHEMES says."""

    def __init__(self, scheme: str, linears: Mapping[str, str], skipped: Sequence[str] = ()) -> None:
        """`linears`: the weights of linear layers, name in files -> name in memory. `skipped`: patterns of names that
        stay as they are."""
        self._name, self._scheme = scheme, SCHEMES[scheme]
        self._linears, self._skipped = linears, tuple(skipped)

    @property
    def record(self) -> Mapping[str, object]:
        """The scheme and what is left out."""
        return {"quantize": self._name, "skipped": list(self._skipped)}

    def plan(self, model: Model) -> Model:
        """The model with its linear layers quantized.

        Raises BadOption if there are none, or if a pattern matches nothing, and UnsupportedLayout for experts that are
        stacked in one tensor: no format says how they are quantized.
        """
        self._refuse_unmatched(model)
        chosen = {name: source for name, source in model.tensors.items() if self._is_chosen(name, source)}
        uneven = []
        if self._scheme is Scheme.FP8_BLOCK:
            uneven = [name for name, source in chosen.items() if any(side % BLOCK_SIDE for side in source.shape)]
            chosen = {name: source for name, source in chosen.items() if name not in uneven}
        if not chosen:
            raise BadOption(
                f"nothing is left to quantize as {self._name}",
                expected="linear layers (torch.nn.Linear) in the blocks of the model, which hold text",
                found=f"{counted(len(uneven), 'layer')} whose sides are no multiples of {BLOCK_SIDE}"
                if uneven
                else None,
            )
        tensors: dict[str, Source] = {}
        for name, source in model.tensors.items():
            if name in chosen:
                tensors |= self._quantized(name, source)
            else:
                self._refuse_stack(name, source)
                tensors[name] = source
        left = self._left(model, chosen)
        notes = [f"{counted(len(chosen), 'linear layer')} quantized as {self._name}; as they are: {listed(left, 6)}"]
        if uneven:
            notes.append(
                f"{counted(len(uneven), 'linear layer')} not quantized, whose sides are no multiples of {BLOCK_SIDE}: "
                f"{listed(uneven, 3)}"
            )
        config = _block_config(left) if self._scheme is Scheme.FP8_BLOCK else _compressed_config(self._scheme, left)
        return model.changed(tensors, fields={"quantization_config": config}, notes=tuple(notes))

    def _is_chosen(self, name: str, source: Source) -> bool:
        return (
            name in self._linears
            and len(source.shape) == 2
            and source.recipe.numel > 0
            and source.recipe.dtype.kind in ("float", "float8")
            and _IN_A_BLOCK.search(name) is not None
            and not _ROUTER.search(_module(name))
            and not _OTHER_SENSES.search(name)
            and not self._is_skipped(name)
        )

    def _is_skipped(self, name: str) -> bool:
        return any(fnmatchcase(each, pattern) for pattern in self._skipped for each in (name, _module(name)))

    def _refuse_unmatched(self, model: Model) -> None:
        known = [each for name in model.tensors for each in (name, _module(name))]
        unmatched = [pattern for pattern in self._skipped if not any(fnmatchcase(each, pattern) for each in known)]
        if unmatched:
            raise BadOption(f"--quantize-skip {unmatched[0]!r} matches no tensor of the model")

    def _refuse_stack(self, name: str, source: Source) -> None:
        is_stack = len(source.shape) == 3 and "experts" in name.split(".") and source.role != "buffer"
        if is_stack and not self._is_skipped(name):
            raise UnsupportedLayout(
                "the experts are stacked in one tensor, and no library says how such a stack is quantized",
                remedy="leave them as they are with --quantize-skip '*.experts.*'",
                address=(name,),
            )

    def _quantized(self, name: str, source: Source) -> dict[str, Source]:
        rows, columns = source.shape
        module = _module(name)
        weight = Quantized(base=source.recipe, rows=rows, columns=columns, scheme=self._scheme)
        scales = Scales(base=source.recipe, rows=rows, columns=columns, scheme=self._scheme)
        made = replace(source, shape=(rows, weight.width), recipe=weight, keeps_dtype=True)
        beside = replace(
            source, shape=(scales.numel // scales.width, scales.width), recipe=scales, role="buffer", keeps_dtype=True
        )
        if self._scheme is Scheme.FP8:
            return {name: made, f"{module}.weight_scale": beside}
        if self._scheme is Scheme.FP8_BLOCK:
            return {name: made, f"{module}.weight_scale_inv": beside}
        shape = replace(beside, shape=(2,), recipe=Listed((rows, columns)))
        return {
            f"{module}.weight_packed": made,
            f"{module}.weight_scale": beside,
            f"{module}.weight_shape": shape,
        }

    def _left(self, model: Model, chosen: Mapping[str, Source]) -> list[str]:
        """Modules whose weight stays as it is, though it is a matrix or more; under their names in memory, too, where
        loaders know linear layers by these."""
        names = [n for n, source in model.tensors.items() if n not in chosen and len(source.shape) > 1]
        several = [(n, self._linears.get(n, n)) for n in names if n.endswith(".weight")]
        absent = [
            (n, memory) for n, memory in self._linears.items() if n not in model.tensors and n.endswith(".weight")
        ]
        return list(dict.fromkeys(_module(name) for pair in (*several, *absent) for name in pair))


def _module(name: str) -> str:
    return name.removesuffix(".weight")


def _block_config(left: Sequence[str]) -> dict[str, object]:
    """As DeepSeek and Qwen publish it, and `FineGrainedFP8Config` of transformers reads it."""
    return {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "modules_to_not_convert": list(left),
        "quant_method": "fp8",
        "weight_block_size": [BLOCK_SIDE, BLOCK_SIDE],
    }


def _compressed_config(scheme: Scheme, left: Sequence[str]) -> dict[str, object]:
    """As `QuantizationConfig` of compressed-tensors is written, keys in the order of the alphabet."""
    is_fp8 = scheme is Scheme.FP8
    form = "float-quantized" if is_fp8 else "pack-quantized"
    group = {
        "format": form,
        "input_activations": _arguments("float", "token", is_dynamic=True) if is_fp8 else None,
        "output_activations": None,
        "targets": ["Linear"],
        "weights": _arguments("float" if is_fp8 else "int", "channel", is_dynamic=False),
    }
    return {
        "config_groups": {"FP8_DYNAMIC" if is_fp8 else "config_group_0": group},
        "format": form,
        "global_compression_ratio": None,
        "ignore": list(left),
        "kv_cache_scheme": None,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "transform_config": {},
        "version": COMPRESSED_TENSORS,
    }


def _arguments(kind: str, strategy: str, *, is_dynamic: bool) -> dict[str, object]:
    """`QuantizationArgs` of compressed-tensors."""
    return {
        "actorder": None,
        "block_structure": None,
        "dynamic": is_dynamic,
        "group_size": None,
        "num_bits": 8,
        "observer": None,
        "observer_kwargs": {},
        "scale_dtype": None,
        "strategy": strategy,
        "symmetric": True,
        "type": kind,
        "zp_dtype": None,
    }
