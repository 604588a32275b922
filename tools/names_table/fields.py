"""The fields of a config class, and which values of each may be tried: by annotation, name, or what a family says."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any

from names_table.common import ROPE

if TYPE_CHECKING:
    from collections.abc import Mapping

ACTIVATIONS = ["gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu", "tanh", "gelu_fast", "swish"]
SIZE = ["int", 1, 1 << 20]
TOKEN = ["or", "null", ["int", -1, 1 << 20]]
TOKENS = ["or", "null", ["int", -1, 1 << 20], ["list", ["int", 0, 1 << 20]]]

_COUNT = re.compile(r"layers?$|depth$|_experts|_groups?$|num_blocks|codebooks")
_UNIT = re.compile(r"drop|pdrop|_prob$|initializer_range|init_std")


def declared(config_class: Any, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """key -> [kind, default] of the dataclass's own fields. `overrides`: a kind, None to leave the field out."""
    import transformers

    base = {field.name for field in dataclasses.fields(transformers.PreTrainedConfig)}
    found: dict[str, Any] = {}
    for field in dataclasses.fields(config_class):
        if field.name in base or field.name in ("is_decoder", "add_cross_attention"):
            continue
        default = (
            field.default
            if field.default is not dataclasses.MISSING
            else (field.default_factory() if field.default_factory is not dataclasses.MISSING else None)
        )
        default = list(default) if isinstance(default, tuple) else default  # as JSON has it
        if field.name in overrides:
            kind = overrides[field.name]
            if kind is None:
                continue
            kind = kind[1] if kind[0] == "with default" else kind
        else:
            kind = kind_of(field.name, str(field.type), default)
        found[field.name] = [kind, default]
    for name, kind in overrides.items():
        if name not in found and kind is not None:
            found[name] = list(kind[1:]) if kind[0] == "with default" else [kind]
    return found


def kind_of(name: str, annotation: str, default: Any) -> Any:
    """The values to try for a field."""
    parts = {part.strip() for part in re.sub(r"<class '(\w+)'>", r"\1", annotation).split("|")}
    nullable = "None" in parts or default is None
    if name in ("rope_parameters", "rope_scaling"):
        return ROPE
    if name == "layer_types":
        return ["or", "null", ["list", ["in", "full_attention", "sliding_attention"]]]
    if name.endswith("_token_id"):
        return TOKENS if "list[int]" in parts else TOKEN
    kinds: list[Any] = []
    if "int" in parts and "float" not in parts:
        count = bool(_COUNT.search(name))
        low = 0 if default == 0 else 1
        kinds.append(["int", low, 256] if count else ["int", low, 1 << 20])
    if "float" in parts:
        low, high = (0.0, 1.0) if _UNIT.search(name) else (0.0, 1e6)
        kinds.append(["number" if "int" in parts else "float", low, high])
    if "bool" in parts:
        kinds.append("bool")
    if "str" in parts:
        kinds.append(["in", *ACTIVATIONS] if re.search(r"act(ivation)?(_fn|_function)?$", name) else ["in", default])
    if not kinds and default is not None:
        if isinstance(default, (str, int, float, bool)):
            kinds.append(["in", default])
        else:
            raise ValueError(f"the field {name} ({annotation}, by default {default!r}) needs a kind")
    if nullable:
        kinds.append("null")
    kinds = [kind for kind in kinds if kind != ["in", None]]
    return kinds[0] if len(kinds) == 1 else ["or", *kinds]
