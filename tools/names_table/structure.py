"""In which order entries come: the loops that, run for any sample, give its entries one after the other."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

    from names_table.listing import Entry, Template


class NoStructure(ValueError):
    """No loops give the entries in this order."""


@dataclass
class Loop:
    """What is repeated."""

    prefix: str
    """Up to and with its counter's `*`."""
    body: list[Node] = field(default_factory=list)

    def templates(self) -> set[Template]:
        """All templates inside."""
        return {t for node in self.body for t in (node.templates() if isinstance(node, Loop) else {node})}


Node: TypeAlias = "Template | Loop"


def structure(samples: Sequence[Sequence[Entry]], depth: int = 0) -> list[Node]:
    """The nodes that give each sample's entries, some of them in no sample all. Raises NoStructure."""
    units = [_units(sample, depth) for sample in samples]
    groups = _groups(units)
    order: dict[object, set[object]] = {}
    iterations: dict[object, list[list[Entry]]] = {}
    for sample in units:
        keys: list[object] = []
        for unit in sample:
            if isinstance(unit, _Run):
                for iteration in unit.iterations:
                    parts: dict[object, list[Entry]] = {}
                    for entry in iteration:
                        parts.setdefault(groups[entry.template], []).append(entry)
                    for key, part in parts.items():
                        iterations.setdefault(key, []).append(part)
                        if key not in keys:
                            keys.append(key)
            elif unit.template not in keys:
                keys.append(unit.template)
            else:
                raise NoStructure(f"{unit.template.name} comes twice")
        for before, after in pairwise(keys):
            order.setdefault(before, set()).add(after)
        for key in keys:
            order.setdefault(key, set())
    nodes: list[Node] = []
    for key in _sorted(order):
        if key in iterations:
            first = iterations[key][0][0].template.name
            loop = Loop(_prefix(first, depth))
            loop.body = structure(iterations[key], depth + 1)
            nodes.append(loop)
        else:
            nodes.append(key)  # type: ignore[arg-type]
    return nodes


@dataclass
class _Run:
    """Consecutive entries that count up under one prefix."""

    prefix: str
    numbers: list[int] = field(default_factory=list)
    iterations: list[list[Entry]] = field(default_factory=list)

    def templates(self) -> set[Template]:
        return {entry.template for iteration in self.iterations for entry in iteration}


def _units(sample: Sequence[Entry], depth: int) -> list[Entry | _Run]:
    units: list[Entry | _Run] = []
    for entry in sample:
        if len(entry.at) <= depth:
            units.append(entry)
            continue
        prefix, number = _prefix(entry.template.name, depth), entry.at[depth]
        last = units[-1] if units else None
        if not (isinstance(last, _Run) and last.prefix == prefix and number >= last.numbers[-1]):
            last = _Run(prefix)
            units.append(last)
        if last.numbers and last.numbers[-1] == number:
            last.iterations[-1].append(entry)
        else:
            last.numbers.append(number)
            last.iterations.append([entry])
    return units


def _prefix(name: str, depth: int) -> str:
    parts = name.split(".")
    stars = [number for number, part in enumerate(parts) if part == "*"]
    return ".".join(parts[: stars[depth] + 1])


def _groups(units: Sequence[Sequence[Entry | _Run]]) -> dict[Template, object]:
    """Which templates are in one loop: those that come in one run of several iterations."""
    parent: dict[Template, Template] = {}

    def root(template: Template) -> Template:
        while parent.setdefault(template, template) != template:
            template = parent[template]
        return template

    single: list[_Run] = []
    for sample in units:
        for unit in sample:
            if isinstance(unit, _Run):
                for template in unit.templates():
                    root(template)
                if len(unit.iterations) < 2:
                    single.append(unit)
                    continue
                first, *rest = unit.templates()
                for template in rest:
                    parent[root(template)] = root(first)
    # Where nothing ever repeats next to something else, neighbours are taken to be together.
    together = Counter(map(root, list(parent)))
    for unit in single:
        lonely = [t for t in unit.templates() if together[root(t)] == 1]
        others = {root(t) for t in unit.templates()} - {root(t) for t in lonely}
        if len(others) == 1:
            (other,) = others
            for template in lonely:
                parent[root(template)] = other
            if lonely:
                together = Counter(map(root, list(parent)))
    return {template: ("loop", root(template)) for template in parent}


def _sorted(order: dict[object, set[object]]) -> list[object]:
    """A topological order that keeps to that of appearance."""
    waiting = {key: sum(key in after for after in order.values()) for key in order}
    done: list[object] = []
    while waiting:
        free = next((key for key, number in waiting.items() if number == 0), None)
        if free is None:
            raise NoStructure("samples do not agree on an order")
        done.append(free)
        del waiting[free]
        for after in order[free]:
            if after in waiting:
                waiting[after] -= 1
    return done
