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


def settled(entry: dict[str, Any], folder: Path, oracle: Oracle) -> Iterator[str]:
    """Change `entry`, and say what was taken out."""
    import transformers

    if entry["model_type"] not in transformers.CONFIG_MAPPING:
        return
    config_class = transformers.CONFIG_MAPPING[entry["model_type"]]
    for variant in entry["variants"]:
        yield from _without_defaults(variant["fields"], config_class, entry["model_type"])
    for proof in proven(entry, folder, oracle, 0, 0):
        yield f"{entry['model_type']}: {proof.name}"
    versions = {*entry["transformers"], VERSION}
    entry["transformers"] = sorted(versions, key=lambda version: [int(part) for part in version.split(".")])


def _without_defaults(fields: dict[str, Any], config_class: Any, where: str) -> Iterator[str]:
    parameters = inspect.signature(config_class.__init__).parameters
    base = inspect.signature(config_class.__mro__[1].__init__).parameters
    for name, declared in fields.items():
        if isinstance(declared, dict):
            inner = getattr(config_class, "sub_configs", {}).get(name)
            if inner is not None and hasattr(inner, "model_type"):
                yield from _without_defaults(declared, inner, f"{where}.{name}")
            continue
        parameter = parameters.get(name) or base.get(name)
        if len(declared) > 1 and parameter is not None and parameter.default != declared[1]:
            yield f"{where}: {name} is by default {parameter.default!r} in {VERSION}, and {declared[1]!r}"
            del declared[1]
