"""Takes out of an entry what another transformers sees in another way: defaults, and whole classes."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from names_table.oracle import VERSION
from names_table.prove import proven

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from names_table.oracle import Oracle

CONFIGS = 60


def settled(entry: dict[str, Any], folder: Path, oracle: Oracle) -> Iterator[str]:
    """Change `entry`, and say what was taken out."""
    import transformers

    model_type = entry["model_type"]
    if model_type not in transformers.CONFIG_MAPPING:
        return
    config_class = transformers.CONFIG_MAPPING[model_type]
    wrong = {proof.name: proof.wrong for proof in proven(entry, folder, oracle, CONFIGS, "settle") if proof.wrong}
    for variant in entry["variants"]:
        yield from _without_defaults(variant["fields"], config_class, model_type)
        labels = config_class().num_labels
        if labels != variant["labels"]:
            yield f"{model_type}: {labels} labels in {VERSION}, and {variant['labels']}"
            variant["labels"] = None
        for name in [name for name in variant["classes"] if name in wrong]:
            yield f"{model_type}: {name} is another in {VERSION}: {wrong[name][0]}"[:1500]
    versions = {*entry["transformers"], VERSION}
    entry["transformers"] = sorted(versions, key=lambda version: [int(part) for part in version.split(".")])


def _without_defaults(fields: dict[str, Any], config_class: Any, where: str) -> Iterator[str]:
    """Fields without the defaults that differ: a config has to say them."""
    import transformers

    parameters = inspect.signature(config_class.__init__).parameters
    for name, declared in fields.items():
        if isinstance(declared, dict):
            inner = declared["model_type"][0][1]
            if inner in transformers.CONFIG_MAPPING:
                yield from _without_defaults(declared, transformers.CONFIG_MAPPING[inner], f"{where}.{name}")
            continue
        if isinstance(declared, str) or len(declared) < 2:
            continue
        # What is no parameter is an attribute of the base class, or of nobody: then it does not matter here.
        if name in parameters and parameters[name].default is not inspect.Parameter.empty:
            default = parameters[name].default
        else:
            default = getattr(config_class(), name, declared[1])
        default = list(default) if isinstance(default, tuple) else default
        if type(default) is not type(declared[1]) or default != declared[1]:
            yield f"{where}: {name} is by default {default!r} in {VERSION}, and {declared[1]!r}"
            del declared[1]
