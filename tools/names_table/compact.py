"""The same listings, shorter: a class with another one inside says so, and a loop says once where it is."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from zeroconsolidate.naming.table.expand import COUNTERS

if TYPE_CHECKING:
    from collections.abc import Sequence

WORTH = 400
"""Letters that are written once less; below, it is easier to read them."""


def compacted(classes: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What expands to the same. A class uses those before it only, and of them those that use none."""
    done: dict[str, dict[str, Any]] = {}
    whole: dict[str, dict[str, list[Any]]] = {}
    for name, listings in classes.items():
        short = {}
        for which, nodes in listings.items():
            found = _using(nodes, {other: there[which] for other, there in whole.items() if which in there})
            if found == nodes:
                whole.setdefault(name, {})[which] = nodes
            short[which] = [_placed(node) for node in found]
        done[name] = short
    return done


def _using(nodes: list[Any], others: dict[str, list[Any]]) -> list[Any]:
    """`nodes` with one node in place of those that other classes have in a row, behind a prefix."""
    best: tuple[int, int, dict[str, Any]] | None = None
    most = WORTH
    for other, used in others.items():
        for start in range(len(nodes)):
            for begin in range(len(used)):
                prefix = _prefix(nodes[start], used[begin])
                if prefix is None:
                    continue
                length = 0
                while (
                    start + length < len(nodes)
                    and begin + length < len(used)
                    and nodes[start + length] == prefixed(used[begin + length], prefix)
                ):
                    length += 1
                letters = len(json.dumps(nodes[start : start + length]))
                if letters > most:
                    node: dict[str, Any] = {"use": other, "at": prefix}
                    if length < len(used):
                        node["nodes"] = [begin, begin + length]
                    best, most = (start, start + length, node), letters
    if best is None:
        return nodes
    start, stop, node = best
    return [*_using(nodes[:start], others), node, *_using(nodes[stop:], others)]


def _prefix(node: Any, used: Any) -> str | None:
    """What stands before the names of the one, if it can be the other behind a prefix."""
    if type(node) is not type(used):
        return None
    name, first = _first([node]), _first([used])
    if name is None or first is None or not name.endswith(first):
        return None
    prefix = name.removesuffix(first)
    return prefix if not prefix or prefix.endswith(".") else None


def _first(nodes: list[Any]) -> str | None:
    for node in nodes:
        found = node[0] if isinstance(node, list) else _first(node.get("do", []))
        if found is not None:
            return found
    return None


def prefixed(node: Any, prefix: str) -> Any:
    """A node whose names, and names in it, have a prefix more."""
    if isinstance(node, dict):
        if "use" in node:
            return node | {"at": prefix + node["at"]}
        return node | {"do": [prefixed(inner, prefix) for inner in node["do"]]}
    name, *said = node
    if len(said) == 4 and isinstance(said[1], list):
        said = [said[0], [prefix + each for each in said[1]], *said[2:]]
    elif len(said) == 1 and isinstance(said[0], str) and "." in said[0] and " " not in said[0]:
        said = [prefix + said[0]]
    return [prefix + name, *said]


def _placed(node: Any) -> Any:
    """A loop whose entries have no longer all the same beginning."""
    if not isinstance(node, dict) or "do" not in node:
        return node
    inner = [_placed(each) for each in node["do"]]
    if "for" not in node:
        return node | {"do": inner}
    common = _beginning(_names(inner, ""), COUNTERS[COUNTERS.index(node["for"]) + 1 :])
    if not common:
        return node | {"do": inner}
    return {"for": node["for"], "to": node["to"], "at": common, "do": [_without(each, len(common)) for each in inner]}


def _beginning(names: list[str], inner: Sequence[str]) -> str:
    """What all names begin with, up to a dot, and before any counter of a loop inside."""
    first, last = min(names), max(names)
    same = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    counted = re.search(rf"\{{[^}}]*\b(?:{'|'.join(inner)})\b", first) if inner else None
    same = min(same, counted.start()) if counted else same
    return first[: first[:same].rfind(".") + 1]


def _names(nodes: list[Any], prefix: str) -> list[str]:
    found = []
    for node in nodes:
        if isinstance(node, list):
            found.append(prefix + node[0])
        elif "use" in node:
            found.append(prefix + node["at"])
        else:
            found += _names(node["do"], prefix + node.get("at", ""))
    return found


def _without(node: Any, length: int) -> Any:
    if isinstance(node, list):
        return [node[0][length:], *node[1:]]
    if "at" in node:
        return node | {"at": node["at"][length:]}
    return node | {"do": [_without(inner, length) for inner in node["do"]]}


def text(entry: dict[str, Any]) -> str:
    """An entry as a file: one field or node to a line."""
    lines = [
        f'{{"model_type": {json.dumps(entry["model_type"])},',
        f' "transformers": {json.dumps(entry["transformers"])},',
    ]
    if "differs" in entry:
        lines.append(f' "differs": {json.dumps(entry["differs"])},')
    lines.append(' "variants": [{')
    for number, variant in enumerate(entry["variants"]):
        if number:
            lines.append(" },{")
        lines += [f'  "labels": {variant["labels"]},', '  "fields": {']
        lines += _lines(variant["fields"], "   ")
        lines.append('  },\n  "requires": [')
        lines += ["   " + ",\n   ".join(json.dumps(each) for each in variant["requires"])]
        lines.append('  ],\n  "derived": {')
        lines += _lines(variant["derived"], "   ")
        lines.append('  },\n  "classes": {')
        parts = []
        for name, listings in variant["classes"].items():
            inside = ",\n".join(
                f"    {json.dumps(which)}: [\n     " + ",\n     ".join(json.dumps(node) for node in nodes) + "]"
                for which, nodes in listings.items()
            )
            parts.append(f"   {json.dumps(name)}: {{\n{inside}}}")
        lines.append(",\n".join(parts))
        lines.append("  }")
    lines.append(" }]}\n")
    return "\n".join(lines)


def _lines(mapping: dict[str, Any], indent: str) -> list[str]:
    return [",\n".join(f"{indent}{json.dumps(key)}: {json.dumps(value)}" for key, value in mapping.items())]
