"""Finds a condition on the fields of a config that holds in just those rows where something is there."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from zeroconsolidate.naming.table.expression import UNDECIDED, compiled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

COUNTERS = ("i", "j", "k")
MAX_DEPTH = 5
SEVERAL = 8
"""More values than this are a size, not a choice."""


class NoCondition(ValueError):
    """No condition was found."""


class Rows:
    """Facts, with counters: by column, since all is asked of all rows at once."""

    def __init__(self, facts: Sequence[dict[str, Any]], hints: Sequence[str] = ()) -> None:
        self.facts, self.hints = list(facts), tuple(hints)
        self._values: dict[str, list[Any]] = {}
        self._codes: dict[str, np.ndarray] = {}
        names = set[str]().union(*self.facts) if self.facts else set()
        for name in sorted(names):
            if all(name in row for row in self.facts):
                numbers: dict[str, int] = {}
                values: list[Any] = []
                codes = []
                for row in self.facts:
                    value = row[name]
                    key = f"{type(value).__name__} {value!r}"
                    if key not in numbers:
                        numbers[key] = len(values)
                        values.append(value)
                    codes.append(numbers[key])
                self._values[name], self._codes[name] = values, np.array(codes)
        self._seen: dict[str, list[int]] | None = None
        self.found: dict[bytes, Any] = {}
        """Numbers that an expression was found for."""

    def __len__(self) -> int:
        return len(self.facts)

    def part(self, chosen: np.ndarray) -> Rows:
        """Some of the rows."""
        part = object.__new__(Rows)
        part.facts = [row for row, there in zip(self.facts, chosen.tolist(), strict=True) if there]
        part.hints, part._values, part._seen, part.found = self.hints, self._values, None, {}
        part._codes = {name: codes[chosen] for name, codes in self._codes.items()}
        return part

    def seen(self) -> dict[str, list[int]]:
        """Which values (by number) each field has in these rows."""
        if self._seen is None:
            self._seen = {name: np.unique(codes).tolist() for name, codes in self._codes.items()}
        return self._seen

    def values(self, name: str) -> list[Any]:
        """The distinct values of a field."""
        return [self._values[name][code] for code in self.seen()[name]]

    def column(self, name: str) -> np.ndarray:
        """A field that is a whole number in each row."""
        numbers = np.zeros(len(self._values[name]), dtype=np.int64)
        for code in self.seen()[name]:
            numbers[code] = self._values[name][code]
        return numbers[self._codes[name]]

    def names(self, *kinds: type) -> list[str]:
        """Fields of which all values are of these types."""
        return [name for name in self.seen() if {*map(type, self.values(name))} <= {*kinds}]

    def simple(self, name: str, test: Callable[[Any], Any]) -> np.ndarray:
        """Where a field's value passes a test."""
        truths = np.zeros(len(self._values[name]), dtype=bool)
        for code in self.seen()[name]:
            truths[code] = bool(test(self._values[name][code]))
        return truths[self._codes[name]]

    def truth(self, text: str) -> np.ndarray | None:
        """Where a condition holds, row by row; None if that cannot be said in each."""
        evaluate = compiled(text)
        try:
            return np.array([bool(evaluate(row)) for row in self.facts])
        except UNDECIDED:
            return None

    def literals(self) -> Iterator[tuple[str, np.ndarray]]:
        """Conditions worth trying, simple ones first, and where they hold: somewhere, but not everywhere."""
        for text, truth in self._all():
            if truth is not None and truth.any() and not truth.all():
                yield text, truth

    def _all(self) -> Iterator[tuple[str, np.ndarray | None]]:
        for hint in self.hints:
            yield hint, self.truth(hint)
        counters = [c for c in COUNTERS if c in self.seen()]
        for name in self.seen():
            if name not in counters:
                for text, test in _simple(name, self.values(name)):
                    yield text, self.simple(name, test)
        numbers = [name for name in self.names(int) if name not in counters]
        columns = {name: self.column(name) for name in (*numbers, *counters)}
        for counter in counters:
            yield from self._counting(counter, columns[counter], {name: columns[name] for name in numbers})
        for number, name in enumerate(numbers):
            for other in numbers[number + 1 :]:
                yield f"{name} == {other}", columns[name] == columns[other]
                yield f"{name} < {other}", columns[name] < columns[other]

    def _counting(
        self, counter: str, at: np.ndarray, numbers: dict[str, np.ndarray]
    ) -> Iterator[tuple[str, np.ndarray | None]]:
        yield f"{counter} == 0", at == 0
        for name, column in numbers.items():
            yield f"{counter} < {name}", at < column
            yield f"{counter} == {name} - 1", at == column - 1
            if (column > 0).all():
                yield f"{counter} % {name} == 0", at % column == 0
                yield f"({counter} + 1) % {name} == 0", (at + 1) % column == 0
        for name in self.names(list, type(None)):
            inside = {x for several in self.values(name) if several for x in several if not isinstance(x, (list, dict))}
            yield f"{counter} in {name}", self.truth(f"{counter} in {name}")
            for value in sorted({x for x in inside if isinstance(x, (str, bool))}, key=str)[:SEVERAL]:
                yield f"{name}[{counter}] == {value!r}", self.truth(f"{name}[{counter}] == {value!r}")
            if inside and all(type(x) in (int, bool) for x in inside):
                yield f"{name}[{counter}] > 0", self.truth(f"{name}[{counter}] > 0")


def _simple(name: str, values: list[Any]) -> Iterator[tuple[str, Callable[[Any], Any]]]:
    """Conditions on one field alone."""
    if len(values) < 2:
        return
    kinds = {type(value) for value in values}
    if kinds == {bool}:
        yield name, lambda value: value
    elif bool in kinds:
        yield f"{name} is True", lambda value: value is True
    if type(None) in kinds:
        yield f"{name} is None", lambda value: value is None
    if str in kinds:
        for text in sorted({value for value in values if isinstance(value, str)}):
            yield f"{name} == {text!r}", lambda value, text=text: value == text
    if kinds == {int}:
        if 0 in values:
            yield f"{name} > 0", lambda value: value > 0
        few = sorted(values) if len(values) <= SEVERAL else [value for value in (-1, 0, 1) if value in values]
        for number in few:
            yield f"{name} == {number}", lambda value, number=number: value == number
    if kinds == {int, type(None)}:
        yield f"{name} is not None and {name} > 0", lambda value: value is not None and value > 0
    if list in kinds and kinds <= {list, type(None)}:
        yield f"{name} is not None and len({name}) > 0", lambda value: bool(value)


def condition(rows: Rows, there: np.ndarray, depth: int = MAX_DEPTH) -> str:
    """The condition under which something is there. Raises NoCondition."""
    if there.all():
        return "True"
    if not there.any():
        return "False"
    best, most = None, -1.0
    for literal, truth in rows.literals():
        if (truth == there).all():
            return literal
        if (truth != there).all():
            return f"not {_bracketed(literal)}"
        gain = _gain(truth, there)
        if gain > most + 1e-9:
            best, most = (literal, truth), gain
    if depth == 0 or best is None or most <= 1e-12:
        raise NoCondition("no condition on the fields tells when it is there")
    literal, truth = best
    yes = condition(rows.part(truth), there[truth], depth - 1)
    no = condition(rows.part(~truth), there[~truth], depth - 1)
    return joined(literal, yes, no)


def joined(test: str, yes: str, no: str) -> str:
    """`yes if test else no`, as short as it goes."""
    negated = f"not {_bracketed(test)}"
    if yes == no:
        return yes
    if yes == "True":
        return test if no == "False" else f"{_bracketed(test)} or {_bracketed(no)}"
    if yes == "False":
        return negated if no == "True" else f"{negated} and {_bracketed(no)}"
    if no == "False":
        return f"{_bracketed(test)} and {_bracketed(yes)}"
    if no == "True":
        return f"{negated} or {_bracketed(yes)}"
    return f"({yes}) if {test} else ({no})"


def _bracketed(text: str) -> str:
    return f"({text})" if " " in text else text


def _gain(truth: np.ndarray, there: np.ndarray) -> float:
    """How much the condition tells of the other, in bits."""
    total, inside, both, some = len(there), int(truth.sum()), int((truth & there).sum()), int(there.sum())
    return (
        _entropy(some, total)
        - inside / total * _entropy(both, inside)
        - (total - inside) / total * _entropy(some - both, total - inside)
    )


def _entropy(some: int, total: int) -> float:
    if some in (0, total):
        return 0.0
    p = some / total
    return -p * math.log2(p) - (1 - p) * math.log2(1 - p)
