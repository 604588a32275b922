"""Settles an entry with another transformers: takes out defaults that differ, so that a config has to say these values,
and writes down of which classes it still says something else. They are then unknown next to that major version.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from names_table.oracle import MAJOR, VERSION
from names_table.prove import proven

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from names_table.oracle import Oracle

CONFIGS = 30


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


def compared(entry: dict[str, Any], folder: Path, oracle: Oracle) -> Iterator[str]:
    """Change `entry`, which is in `folder`, if it disagrees, and say where."""
    differs = {major: names for major, names in entry.pop("differs", {}).items() if major != str(MAJOR)}
    wrong = [proof for proof in proven(entry, folder, oracle, CONFIGS, "settle") if proof.wrong]
    for proof in wrong:
        yield f"{entry['model_type']}: {proof.name} is another in {VERSION}: {proof.wrong[0]}"[:1500]
    if differs or wrong:
        entry["differs"] = differs | ({str(MAJOR): sorted({proof.name for proof in wrong})} if wrong else {})


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
