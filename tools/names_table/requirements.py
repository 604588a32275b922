"""Finds what must hold between fields for transformers to build a model at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zeroconsolidate.naming.table.expression import UNDECIDED, evaluate
from zeroconsolidate.naming.table.kinds import accepts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


MOST = 3
"""More conditions at once than this are no finding."""


def required(good: Sequence[dict[str, Any]], bad: Sequence[dict[str, Any]]) -> tuple[list[str], list[dict[str, Any]]]:
    """Conditions that hold in all that is good and in nothing that is bad, and the bad that no condition tells."""
    found: list[str] = []
    rest = list(bad)
    while rest:
        best, most = "", 0.0
        for condition in _candidates([*good, *rest]):
            broken = sum(not _holds(condition, facts) for facts in rest)
            lost = sum(not _holds(condition, facts) for facts in good)
            # To know less than one could is no fault, but a pity.
            worth = broken / (1 + 4 * lost)
            if worth > most and lost < len(good) / 3:
                best, most = condition, worth
        if most < 1 or len(found) == MOST or broken_by(best, rest) < len(bad) / 8:
            return found, rest
        found.append(best)
        rest = [facts for facts in rest if _holds(best, facts)]
    return found, []


def narrowed(
    fields: dict[str, Any], good: Sequence[dict[str, Any]], bad: Sequence[dict[str, Any]], kinds: dict[str, Any]
) -> str:
    """Take out of a field's kind what no model was ever built with; says what, empty if there is no such thing.

    `good`, `bad`: values of fields as a config.json has them.
    """
    worst: tuple[int, str, Any] | None = None
    for name, declared in fields.items():
        if isinstance(declared, (dict, str)):
            continue
        for part in _alternatives(declared[0]):
            failed = sum(name in config and accepts(part, config[name], kinds) for config in bad)
            built = sum(name in config and accepts(part, config[name], kinds) for config in good)
            if built == 0 and failed >= SURE and (worst is None or failed > worst[0]):
                worst = failed, name, part
    if worst is None:
        return ""
    _, name, part = worst
    rest = [each for each in _alternatives(fields[name][0]) if each != part]
    fields[name][0] = _joined(rest)
    return f"{name} is never {part}"


SURE = 9
"""Times that something failed before it is believed to be the reason."""


def _alternatives(kind: Any) -> list[Any]:
    if isinstance(kind, list) and kind[0] == "or":
        return [part for each in kind[1:] for part in _alternatives(each)]
    if isinstance(kind, list) and kind[0] == "in" and len(kind) > 2:
        return [["in", value] for value in kind[1:]]
    return [kind]


def _joined(parts: list[Any]) -> Any:
    values = [part[1] for part in parts if part[0] == "in"]
    others = [part for part in parts if part[0] != "in"]
    parts = [*([["in", *values]] if values else []), *others]
    return parts[0] if len(parts) == 1 else ["or", *parts]


def broken_by(condition: str, rows: Sequence[dict[str, Any]]) -> int:
    """In how many rows a condition does not hold."""
    return sum(not _holds(condition, facts) for facts in rows)


def _holds(condition: str, facts: dict[str, Any]) -> bool:
    try:
        return bool(evaluate(condition, facts))
    except UNDECIDED:
        return False


def _candidates(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    names = sorted(set().union(*rows))
    numbers = [n for n in names if all(type(row.get(n)) in (int, type(None)) for row in rows)]
    guards = {n: f"{n} is None or " if any(row.get(n) is None for row in rows) else "" for n in numbers}
    for name in names:
        if any(row.get(name) is None for row in rows):
            yield f"{name} is not None"
    for name in numbers:
        yield f"{guards[name]}{name} % 2 == 0"
        yield f"{guards[name]}{name} > 0"
        yield f"{guards[name]}{name} >= 0"
        for other in numbers:
            if other != name:
                guard = guards[name] + guards[other]
                yield f"{guard}{name} < {other}"
                yield f"{guard}{name} <= {other}"
                if all(row.get(other) != 0 for row in rows):
                    yield f"{guard}{name} % {other} == 0"
                    yield f"{guard}({name} // {other}) % 2 == 0"
    for name in names:
        if all(type(row.get(name)) in (list, type(None)) for row in rows) and any(row.get(name) for row in rows):
            for other in numbers:
                yield f"{name} is None or len({name}) == {other}"
