"""A parameter with several names: under which of them it is written.

A bi-encoder has one encoder under two names (`lm_q is lm_p`), a wrapper its model's embedding under a name of its own:

    stored                       what the target expects      written
    lm_q.embeddings.weight
    lm_p.embeddings.weight       embeddings.weight            embeddings.weight, once

What counts is the tensor, not the name it is stored under: it is written under those of its names that are expected,
each once, and under its own only if none is. Names that the target ties to one another are one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..catalog.facts import Shape


def landed(
    mapping: Mapping[str, str],
    stored: Mapping[str, Shape],
    ties: Mapping[str, str],
    expected: Mapping[str, Shape | None],
    target_ties: Mapping[str, str],
) -> dict[str, list[str]]:
    """Owner -> those of its names that `mapping` (stored -> output) turns into expected ones; only those of the
    expected shape, if there are any. `target_ties`: alias -> kept name, in the target."""
    found: dict[str, list[str]] = {}
    for name, new in mapping.items():
        names = found.setdefault(ties.get(name, name), [])
        if new in expected or new in target_ties:
            names.append(name)
    for owner, names in found.items():
        fitting = [name for name in names if agree(stored[name], expected.get(mapping[name]))]
        # Of tied names the one that is kept comes first: it is the one that every loader reads.
        found[owner] = sorted(fitting or names, key=lambda name: mapping[name] in target_ties)
    return found


def names_to_write(
    selected: Mapping[str, str],
    mapping: Mapping[str, str],
    places: Mapping[str, list[str]],
    partners: Mapping[str, set[str]],
    *,
    all_names: bool,
) -> dict[str, str]:
    """Stored names to write -> owner. `selected`: stored name -> owner, as far as chosen by now; `places`: what
    `landed` returns; `partners`: every name that the target ties -> all names of that parameter.

    `all_names`: the target expects each name that it does not tie to another.
    """
    chosen: dict[str, str] = {}
    written: set[str] = set()

    def write(name: str, owner: str) -> None:
        chosen[name] = owner
        written.add(mapping.get(name, name))

    for name, owner in selected.items():
        names = places.get(owner)
        if not names:
            write(name, owner)
        elif name in names:
            new = mapping[name]
            # The first in the order of the module is not always the one that is kept, which all releases read.
            kept = next(other for other in names if mapping[other] in partners.get(new, {new}))
            write(name if kept in selected else kept, owner)
    here = set(chosen.values())
    for owner in dict.fromkeys(selected.values()):
        if owner in here and not all_names:
            continue
        for name in places.get(owner, ()):
            new = mapping[name]
            if written.isdisjoint(partners.get(new, {new})):
                write(name, owner)
    return chosen


def rivals(
    stored: Mapping[str, Shape], ties: Mapping[str, str], moved: Iterable[tuple[str, Mapping[str, str]]],
    expected: Mapping[str, Shape | None],
) -> tuple[str, ...]:  # fmt: skip
    """Prefixes of models that have the same names and shapes but no tensor in common, if there are several.

    `moved`: prefix -> names without it, for each of the prefixes that turn most names into expected ones.
    """
    found: dict[frozenset[str], str] = {}
    for prefix, names in moved:
        owners = frozenset(
            ties.get(name, name)
            for name, new in names.items()
            if new in expected and agree(stored[name], expected[new])
        )
        if 2 * len(owners) > len(expected):
            found.setdefault(owners, prefix)
    apart = [prefix for owners, prefix in found.items() if all(owners.isdisjoint(o) for o in found if o is not owners)]
    return tuple(apart) if len(apart) > 1 else ()


def agree(shape: Shape, expected: Shape | None) -> bool:
    """Whether a tensor has the expected shape; None: any shape is accepted."""
    return expected is None or shape == expected


def is_one_to_one(mapping: Mapping[str, str], ties: Mapping[str, str]) -> bool:
    """Whether no two tensors get the same name; two names of one tensor may."""
    return len({(new, ties.get(name, name)) for name, new in mapping.items()}) == len(set(mapping.values()))


def tied_together(ties: Mapping[str, str]) -> dict[str, set[str]]:
    """Every name of a tied parameter -> all of its names. `ties`: alias -> kept name."""
    groups: dict[str, set[str]] = {}
    for alias, owner in ties.items():
        groups.setdefault(owner, {owner}).add(alias)
    return {name: group for group in groups.values() for name in group}
