"""Answers as listings: what is to be described by a template, for names, ties and conversions alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

WHICH = ("names", "ties", "hub", "hub_ties", "conversions")


@dataclass(frozen=True, slots=True)
class Item:
    """One entry: a name, whole numbers, and other names."""

    name: str
    numbers: tuple[int, ...]
    others: tuple[str, ...] = ()
    form: tuple[int, ...] = ()
    """What entries of one template have in common besides: how many numbers mean what."""


def items(answer: dict[str, Any], which: str) -> list[Item]:
    """A listing of an answer. Raises ValueError for a conversion that the table has no words for."""
    said = answer[which]
    if which in ("names", "hub"):
        return [Item(name, tuple(shape)) for name, shape in said.items()]
    if which in ("ties", "hub_ties"):
        return [Item(alias, (), (kept,)) for alias, kept in said.items()]
    return [_conversion(entry) for entry in said]


def _conversion(entry: dict[str, Any]) -> Item:
    if entry["opaque"]:
        raise ValueError(f"the conversion to {entry['output']} is opaque")
    if entry["row_numel"] == 1 and len(entry["shape"]) > 1 and entry["shape"][-1] != 1:
        raise ValueError(f"the conversion to {entry['output']} takes rows apart")
    runs = entry["runs"]
    numbers = [*entry["shape"], entry["row_numel"], *(number for _, first, count in runs for number in (first, count))]
    form = (len(entry["shape"]), *(which for which, _, _ in runs))
    return Item(entry["output"], tuple(numbers), tuple(entry["inputs"]), form)


@dataclass(frozen=True, slots=True)
class Template:
    """What entries have in common: the name with `*` for counters, and the same of other names."""

    name: str
    others: tuple[str, ...]
    form: tuple[int, ...]
    numbers: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry as an instance of its template."""

    template: Template
    at: tuple[int, ...]
    """Its counters."""
    numbers: tuple[int, ...]
    """Its numbers, then those in other names."""


def templated(samples: Sequence[Sequence[Item]]) -> list[list[Entry]]:
    """Entries of each sample. A number in a name counts something if not all samples have the same ones there."""
    names = [[item.name.split(".") for item in sample] for sample in samples]
    depth = 0
    while True:
        seen: dict[str, dict[int, set[str]]] = {}
        for number, sample in enumerate(names):
            for parts in sample:
                if len(parts) > depth and parts[depth].isdigit():
                    seen.setdefault(".".join(parts[:depth]), {}).setdefault(number, set()).add(parts[depth])
        if not any(len(parts) > depth for sample in names for parts in sample):
            break
        for prefix, sets in seen.items():
            if len({frozenset(there) for there in sets.values()}) > 1:
                for sample in names:
                    for parts in sample:
                        if len(parts) > depth and parts[depth].isdigit() and ".".join(parts[:depth]) == prefix:
                            parts[depth] = f"*{parts[depth]}"
        # Below, all of them are one place: `layers.*.mlp`.
        names = [[_starred(parts, depth) for parts in sample] for sample in names]
        depth += 1
    found = []
    for sample, split in zip(samples, names, strict=True):
        entries = []
        for item, parts in zip(sample, split, strict=True):
            others, inside = _others(item.others)
            at = tuple(part.number for part in parts if isinstance(part, _Star))
            template = Template(".".join(parts), others, item.form, len(item.numbers))
            entries.append(Entry(template, at, (*item.numbers, *inside)))
        found.append(entries)
    return found


class _Star(str):
    """A `*` that knows what it stands for."""

    number: int


def _starred(parts: list[str], depth: int) -> list[str]:
    if len(parts) > depth and parts[depth].startswith("*") and not isinstance(parts[depth], _Star):
        star = _Star("*")
        star.number = int(parts[depth][1:])
        parts[depth] = star
    return parts


def _others(names: Sequence[str]) -> tuple[tuple[str, ...], list[int]]:
    """Other names with `*` for each number in them, and the numbers."""
    numbers: list[int] = []
    found = []
    for name in names:
        parts = name.split(".")
        numbers += [int(part) for part in parts if part.isdigit()]
        found.append(".".join("*" if part.isdigit() else part for part in parts))
    return tuple(found), numbers
