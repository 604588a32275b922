"""Describes the listings of one class: from answers for many configs to nodes of the table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from names_table.conditions import COUNTERS, Rows, condition
from names_table.listing import Template, items, templated
from names_table.sizes import size
from names_table.structure import Loop, structure

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from names_table.listing import Entry
    from names_table.structure import Node

MAX_ROWS = 1500


def described(
    facts: Sequence[dict[str, Any]], answers: Sequence[dict[str, Any]], which: str, hints: Sequence[str] = ()
) -> list[Any]:
    """The nodes of one listing. Raises ValueError if there is no such description."""
    samples = templated([items(answer, which) for answer in answers])
    scopes = [(dict(row), sample) for row, sample in zip(facts, samples, strict=True)]
    return _nodes(structure(samples), scopes, 0, which, tuple(hints))


def _nodes(
    nodes: Sequence[Node],
    scopes: list[tuple[dict[str, Any], Sequence[Entry]]],
    depth: int,
    which: str,
    hints: tuple[str, ...],
) -> list[Any]:
    """What stands for `nodes` in a scope, seen in several: facts and counters, and the entries there."""
    if len(scopes) > MAX_ROWS:
        scopes = scopes[:: len(scopes) // MAX_ROWS + 1]
    rows = Rows([facts for facts, _ in scopes], hints)
    described: list[tuple[str, Any]] = []
    parts_of: dict[bytes, Rows] = {}

    def part(there: np.ndarray) -> Rows:
        return parts_of.setdefault(there.tobytes(), rows if there.all() else rows.part(there))

    for node in nodes:
        if isinstance(node, Loop):
            inside = node.templates()
            parts = [[entry for entry in entries if entry.template in inside] for _, entries in scopes]
            there = np.array([bool(entries) for entries in parts])
            test = condition(rows, there)
            chosen = part(there)
            counter = COUNTERS[depth]
            counts = np.array([1 + max(e.at[depth] for e in entries) for entries in parts if entries])
            count = size(chosen, counts)
            inner = []
            for (facts, _), entries in zip(scopes, parts, strict=True):
                for number in range(max((e.at[depth] + 1 for e in entries), default=0)):
                    mine = [entry for entry in entries if entry.at[depth] == number]
                    inner.append((facts | {counter: number}, mine))
            body = _nodes(node.body, inner, depth + 1, which, hints)
            described.append((test, {"for": counter, "to": count, "do": body}))
        else:
            there_entries = [next((e for e in entries if e.template == node), None) for _, entries in scopes]
            there = np.array([entry is not None for entry in there_entries])
            test = condition(rows, there)
            said = _said(node, part(there), [e for e in there_entries if e is not None], which)
            described.append((test, [_named(node.name, COUNTERS), *said]))
    return list(_grouped(described))


def _said(template: Template, rows: Rows, entries: Sequence[Entry], which: str) -> list[Any]:
    """What follows the name of an entry."""
    columns = [np.array(column) for column in zip(*(entry.numbers for entry in entries), strict=True)]
    numbers = [size(rows, column) for column in columns]
    own, inside = numbers[: template.numbers], iter(numbers[template.numbers :])
    others = [_named(name, inside) for name in template.others]
    if which in ("names", "hub"):
        return own
    if which in ("ties", "hub_ties"):
        return others
    rank, *inputs = template.form
    shape, row_numel, runs = own[:rank], own[rank], own[rank + 1 :]
    made = [[number, runs[2 * at], runs[2 * at + 1]] for at, number in enumerate(inputs)]
    return [shape, others, row_numel, made]


def _named(name: str, counters: Any) -> str:
    """A name with its stars replaced by what they count."""
    following = iter(counters)
    parts = []
    for part in name.split("."):
        value = next(following) if part == "*" else part
        parts.append(f"{{{value}}}" if part == "*" and not isinstance(value, int) else str(value))
    return ".".join(parts)


def _grouped(described: Sequence[tuple[str, Any]]) -> Iterator[Any]:
    """Nodes with their conditions, which neighbours share."""
    group: list[Any] = []
    current = "True"
    for test, node in [*described, ("True", None)]:
        if test != current or node is None:
            if current == "True":
                yield from group
            elif group and current != "False":
                yield {"if": current, "do": group}
            group, current = [], test
        group.append(node)
