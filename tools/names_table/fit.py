"""Describes the listings of one class: from answers for many configs to nodes of the table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

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

Scope: TypeAlias = "tuple[dict[str, Any], Sequence[Entry], dict[str, int]]"
"""Facts and counters, the entries there, and how far numbers go in the answer."""


def described(
    facts: Sequence[dict[str, Any]], answers: Sequence[dict[str, Any]], which: str, hints: Sequence[str] = ()
) -> list[Any]:
    """The nodes of one listing. Raises ValueError if there is no such description."""
    samples = templated([items(answer, which) for answer in answers])
    ends = [_ends(answer) for answer in answers]
    scopes = [(dict(row), sample, end) for row, sample, end in zip(facts, samples, ends, strict=True)]
    return _nodes(structure(samples), scopes, 0, which, tuple(hints))


def _nodes(
    nodes: Sequence[Node],
    scopes: list[Scope],
    depth: int,
    which: str,
    hints: tuple[str, ...],
) -> list[Any]:
    """What stands for `nodes` in a scope, seen in several."""
    if len(scopes) > MAX_ROWS:
        scopes = scopes[:: len(scopes) // MAX_ROWS + 1]
    rows = Rows([facts for facts, _, _ in scopes], hints)
    described: list[tuple[str, Any]] = []
    parts_of: dict[bytes, Rows] = {}

    def part(there: np.ndarray) -> Rows:
        return parts_of.setdefault(there.tobytes(), rows if there.all() else rows.part(there))

    for node in nodes:
        if isinstance(node, Loop):
            inside, counter = node.templates(), COUNTERS[depth]
            parts = [[entry for entry in entries if entry.template in inside] for _, entries, _ in scopes]
            # Not how far these entries go, but the layers: there may be nothing of them in the last, or in none.
            counts = np.array([ends.get(_place(node.prefix, facts), 0) for facts, _, ends in scopes])
            there = counts > 0
            test = condition(rows, there)
            count = size(part(there), counts[there])
            inner = []
            for (facts, _, ends), entries, length in zip(scopes, parts, counts.tolist(), strict=True):
                for number in range(length):
                    mine = [entry for entry in entries if entry.at[depth] == number]
                    inner.append((facts | {counter: number}, mine, ends))
            body = _nodes(node.body, inner, depth + 1, which, hints)
            described.append((test, {"for": counter, "to": count, "do": body}))
        else:
            there_entries = [next((e for e in entries if e.template == node), None) for _, entries, _ in scopes]
            there = np.array([entry is not None for entry in there_entries])
            test = condition(rows, there)
            said = _said(node, part(there), [e for e in there_entries if e is not None], which)
            described.append((test, [_named(node.name, COUNTERS), *said]))
    return list(_grouped(described))


def _ends(answer: dict[str, Any]) -> dict[str, int]:
    """How far the numbers go behind each prefix, in all names of an answer."""
    ends: dict[str, int] = {}
    for name in (*answer["names"], *answer.get("hub", ())):
        parts = name.split(".")
        for at, part in enumerate(parts):
            if part.isdigit():
                prefix = ".".join(parts[:at])
                ends[prefix] = max(ends.get(prefix, 0), int(part) + 1)
    return ends


def _place(prefix: str, facts: dict[str, Any]) -> str:
    """What comes before the numbers of a loop, with its outer counters filled in."""
    following = iter(COUNTERS)
    parts = prefix.split(".")[:-1]
    return ".".join(str(facts[next(following)]) if part == "*" else part for part in parts)


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
