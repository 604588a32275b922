"""What is to be described of a model type before any class is: its fields, and what is known to be required of them."""

from __future__ import annotations

import re
from itertools import product
from typing import TYPE_CHECKING, Any

from names_table.common import ROPE
from names_table.families import FAMILIES
from names_table.fields import declared

if TYPE_CHECKING:
    from collections.abc import Iterator

PROBLEMS = ["or", "null", ["in", "regression", "single_label_classification", "multi_label_classification"]]
WIDTHS = ("hidden_size", "n_embd", "d_model", "dim", "embed_dim")
HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads", "encoder_attention_heads", "decoder_attention_heads")
DERIVED = ("key_value_heads", "head_size")


def variants_of(model_type: str) -> Iterator[dict[str, Any]]:
    """Fields, requirements and derived values, without classes: one for each choice of the configs inside."""
    import transformers

    inside = FAMILIES[model_type].get("inside", {})
    for chosen in product(*([(key, each) for each in types] for key, types in inside.items())):
        variant: dict[str, Any] = {"fields": {}, "requires": [], "derived": {}, "classes": {}}
        variant["labels"] = transformers.CONFIG_MAPPING[model_type]().num_labels
        variant["fields"] = _fields(model_type, variant, "")
        for key, inner in chosen:
            variant["fields"][key] = {"model_type": [["in", inner]]} | _fields(inner, variant, f"{key}.")
            variant["requires"].append(f"{key}.model_type == {inner!r}")
        variant["fields"]["problem_type"] = [PROBLEMS, None]
        variant["requires"].append("problem_type != 'single_label_classification' or num_labels > 1")
        yield variant


def _fields(model_type: str, variant: dict[str, Any], prefix: str) -> dict[str, Any]:
    """The fields of one config class; what is required of them and derived from them is added to the variant."""
    import transformers

    family = FAMILIES[model_type]
    config_class = transformers.CONFIG_MAPPING[model_type]
    more = family.get("fields", {})
    rope = more.get("rope_parameters", ROPE)
    if "rope_parameters" in config_class.__dataclass_fields__ and rope is not None:
        more = {"rope_theta": ["with default", "@theta"], "rope_scaling": ["with default", rope]} | more
    overrides = dict.fromkeys(config_class.sub_configs_defaults) | more
    fields = declared(config_class, overrides)
    for alias, name in family.get("aliases", {}).items():
        if alias in fields or name not in fields:
            raise ValueError(f"{model_type}: {alias} cannot be another name of {name}")
        fields[alias] = name
    if config_class.__dataclass_fields__["is_encoder_decoder"].default is True and "is_encoder_decoder" not in more:
        fields["is_encoder_decoder"] = [["in", True], True]
    variant["requires"] += [_under(prefix, each, fields) for each in (*_required(fields), *family.get("requires", []))]
    for name, text in (_derived(fields) | family.get("derived", {})).items():
        variant["derived"][prefix + name] = _under(prefix, text, fields)
    if "rope_parameters" in fields and prefix + "head_size" in variant["derived"]:
        variant["requires"] += [f"{prefix}head_size % 2 == 0", f"{prefix}head_size > 2"]
    return fields


def _required(fields: dict[str, Any]) -> Iterator[str]:
    """What must nearly always hold. More than transformers needs is no fault: models in use fulfil it."""
    widths, heads = [w for w in WIDTHS if w in fields], [h for h in HEADS if h in fields]
    for width, head in product(widths[-1:], heads):
        yield f"{width} % {head} == 0"
    if "num_key_value_heads" in fields and heads:
        yield f"num_key_value_heads is None or {heads[0]} % num_key_value_heads == 0"
    if "pad_token_id" in fields and "vocab_size" in fields:
        yield "pad_token_id is None or pad_token_id < vocab_size"
    if "rope_parameters" in fields and heads and widths:
        if "head_dim" in fields:
            yield "head_dim is None or head_dim % 2 == 0"
            yield f"head_dim is not None or ({widths[-1]} // {heads[0]}) % 2 == 0"
        else:
            yield f"({widths[-1]} // {heads[0]}) % 2 == 0"
    if "layer_types" in fields:
        yield "layer_types is None or len(layer_types) == num_hidden_layers"
    if "patch_size" in fields and "image_size" in fields:
        yield "patch_size <= image_size"


def _derived(fields: dict[str, Any]) -> dict[str, str]:
    """What classes take where nothing is said."""
    found = {}
    widths, heads = [w for w in WIDTHS if w in fields], [h for h in HEADS if h in fields]
    if "num_key_value_heads" in fields and heads:
        found["key_value_heads"] = f"{heads[0]} if num_key_value_heads is None else num_key_value_heads"
    if widths and heads and "rope_parameters" in fields:
        size = f"{widths[-1]} // {heads[0]}"
        found["head_size"] = f"{size} if head_dim is None else head_dim" if "head_dim" in fields else size
    return found


def _under(prefix: str, text: str, fields: dict[str, Any]) -> str:
    """An expression over the fields of a config inside another."""
    names = {*fields, *DERIVED}
    return re.sub(r"(?<![\w.'])[a-z_]\w*(?![\w.'])", lambda m: prefix + m[0] if m[0] in names else m[0], text)
