"""Takes out of an entry the defaults that another transformers has otherwise: a config has to say these values."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from names_table.oracle import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator


def settled(entry: dict[str, Any]) -> Iterator[str]:
    """Change `entry`, and say what was taken out."""
    import transformers

    model_type = entry["model_type"]
    if model_type not in transformers.CONFIG_MAPPING:
        return
    config_class = transformers.CONFIG_MAPPING[model_type]
    for variant in entry["variants"]:
        yield from _without_defaults(variant["fields"], config_class, model_type)
        labels = config_class().num_labels
        if labels != variant["labels"]:
            yield f"{model_type}: {labels} labels in {VERSION}, and {variant['labels']}"
            variant["labels"] = None
    versions = {*entry["transformers"], VERSION}
    entry["transformers"] = sorted(versions, key=lambda version: [int(part) for part in version.split(".")])


def _without_defaults(fields: dict[str, Any], config_class: Any, where: str) -> Iterator[str]:
    """Fields without the defaults that differ: a config has to say them."""
    import transformers

    parameters, base = inspect.signature(config_class.__init__).parameters, vars(transformers.PretrainedConfig())
    for name, declared in fields.items():
        if isinstance(declared, dict):
            inner = declared["model_type"][0][1]
            if inner in transformers.CONFIG_MAPPING:
                yield from _without_defaults(declared, transformers.CONFIG_MAPPING[inner], f"{where}.{name}")
            continue
        if isinstance(declared, str) or len(declared) < 2:
            continue
        if name in parameters and parameters[name].default is not inspect.Parameter.empty:
            default = parameters[name].default
        elif name in base:
            default = getattr(config_class(), name)
        else:
            continue  # the class works it out of others, or has never heard of it
        default = list(default) if isinstance(default, tuple) else default
        same = type(default) is type(declared[1]) or {type(default), type(declared[1])} == {int, float}
        if not same or default != declared[1]:
            yield f"{where}: {name} is by default {default!r} in {VERSION}, and {declared[1]!r}"
            del declared[1]
