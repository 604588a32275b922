"""Stored names -> the parameters of adapters, for a merge that is recomputed.

Not by `adapters/wrapping.py`, on purpose: what was taken for the wrong factor there must not be so here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ...plan.build import Source

T = TypeVar("T")

WRAPPERS = frozenset({"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"})
"""Names of wrappers of modules inside of a model; never part of its own names."""
_OF_PEFT = WRAPPERS | {"base_layer", "token_adapter", "original_module"}
_PEFT = "base_model.model."


def plain(name: str) -> str:
    """A stored name, as in the model that PEFT wrapped."""
    _, found, inner = f".{name}".partition(f".{_PEFT}")
    return ".".join(part for part in (inner if found else name).split(".") if part not in _OF_PEFT)


def factors(
    stored: Mapping[str, Source], adapters: Iterable[str], prefixes: tuple[str, ...]
) -> tuple[dict[str, dict[str, dict[str, Source]]], dict[str, dict[str, dict[str, Source]]]]:
    """Module -> adapter -> `lora_A.weight` and so on -> where it is; and the same for modules with nested wrappers,
    separately: their names do not say which wrapper has which parameter of the module.

    `prefixes`: of the attributes that hold a parameter of an adapter.
    """
    begins, names = "|".join(map(re.escape, prefixes)), "|".join(map(re.escape, adapters))
    pattern = re.compile(rf"^(?P<module>.+?)\.(?P<key>(?:{begins})[^.]*)\.(?P<adapter>{names})(?P<rest>\..+)?$")
    found: dict[str, dict[str, dict[str, Source]]] = {}
    wrapped: dict[str, dict[str, dict[str, Source]]] = {}
    nested = set()
    for name, source in stored.items():
        match = pattern.match(name)
        if match is None:
            continue
        module = plain(match["module"])
        if ".base_layer" in match["module"]:
            nested.add(module)
        key = match["key"] + (match["rest"] or "")
        found.setdefault(module, {}).setdefault(match["adapter"], {})[key] = source
        wrapped.setdefault(match["module"], {}).setdefault(match["adapter"], {})[key] = source
    return {module: held for module, held in found.items() if module not in nested}, wrapped


def pairs(paths: Iterable[str], names: Iterable[str]) -> dict[str, str]:
    """Path in the run -> its name in the output, for pairs that are each other's nearest.

    The nearest name shares the longest end: at least down to the first numbered layer, or the whole path.
    """
    by_end: dict[tuple[object, ...], list[str]] = {}
    for name in names:
        by_end.setdefault(_end(name), []).append(name)
    best: dict[str, tuple[int, str | None]] = {}
    wanted: dict[str, tuple[int, str | None]] = {}
    for path in paths:
        for name in by_end.get(_end(path), ()):
            common = _common(path, name)
            if common:
                best[path] = _better(best.get(path), common, name)
                wanted[name] = _better(wanted.get(name), common, path)
    return {path: name for path, (_, name) in best.items() if name is not None and wanted[name][1] == path}


def _better(held: tuple[int, T | None] | None, common: int, other: T) -> tuple[int, T | None]:
    if held is None or common > held[0]:
        return common, other
    return (common, None) if common == held[0] else held


def _end(name: str) -> tuple[object, ...]:
    """What nearest names have in common at least: the module's last part, and every number."""
    parts = name.split(".")
    return (*parts[-2:], *(part for part in parts if part.isdigit()))


def _common(path: str, name: str) -> int:
    """How many parts the ends share, 0 if too few to be sure."""
    one, other = path.split("."), name.split(".")
    count = 0
    for here, there in zip(reversed(one), reversed(other), strict=False):
        if here != there:
            break
        count += 1
    left = [*one[: len(one) - count], *other[: len(other) - count]]
    whole = count in (len(one), len(other))
    return count if not any(part.isdigit() for part in left) and (whole or _has_layer(one[-count:])) else 0


def _has_layer(parts: list[str]) -> bool:
    return any(part.isdigit() for part in parts)
