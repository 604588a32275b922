"""Finds an expression over the fields of a config that gives just these numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from names_table.conditions import COUNTERS, NoCondition, Rows, condition, joined
from zeroconsolidate.naming.table.expression import UNDECIDED, compiled

if TYPE_CHECKING:
    from collections.abc import Iterator

PIECES = 3
ENOUGH = 80
"""Rows that are looked at; all are checked in the end."""
FEW = 4
"""Rows on which anything fits."""
CONSTANT = 64
"""The largest number that is added."""


class NoExpression(ValueError):
    """No expression was found."""


def size(rows: Rows, numbers: np.ndarray) -> str | int:
    """An expression for `numbers`. Raises NoExpression."""
    key = numbers.tobytes()
    if key not in rows.found:
        rows.found[key] = _size(rows, numbers)
    return rows.found[key]


def _size(rows: Rows, numbers: np.ndarray) -> str | int:
    # Two cases of something simple are more likely, and sooner found, than one thing that is not.
    for effort, pieces in ((0, 0), (0, 1), (1, 0), (0, PIECES), (2, 0), (1, 1), (2, 1)):
        found = _pieces(rows, numbers, effort, pieces)
        if found is not None:
            return found
    if len({*numbers.tolist()}) == 2:
        high, low = int(numbers.max()), int(numbers.min())
        try:
            return joined(condition(rows, numbers == high), str(high), str(low))
        except NoCondition:
            pass
    raise NoExpression(f"no expression gives {numbers[:8].tolist()}")


def _pieces(rows: Rows, numbers: np.ndarray, effort: int, pieces: int) -> str | int | None:
    found = _one(rows, numbers, effort)
    if found is not None or pieces == 0 or len(numbers) < 2 * FEW:
        return found
    halves: list[tuple[int, str, np.ndarray, bool]] = []
    for literal, truth in rows.literals():
        if min(truth.sum(), len(truth) - truth.sum()) < FEW:
            continue
        yes = _one(rows.part(truth), numbers[truth], effort)
        no = _one(rows.part(~truth), numbers[~truth], effort)
        if yes is not None and no is not None:
            return joined(literal, str(yes), str(no))
        if yes is not None or no is not None:
            halves.append((int((truth if yes is not None else ~truth).sum()), literal, truth, yes is not None))
    for _, literal, truth, _ in sorted(halves, key=lambda half: -half[0])[:4]:
        yes = _pieces(rows.part(truth), numbers[truth], effort, pieces - 1)
        no = None if yes is None else _pieces(rows.part(~truth), numbers[~truth], effort, pieces - 1)
        if yes is not None and no is not None:
            return joined(literal, str(yes), str(no))
    return None


def _one(rows: Rows, numbers: np.ndarray, effort: int) -> str | int | None:
    """A single expression, without conditions."""
    if (numbers == numbers[0]).all():
        return int(numbers[0])
    few = np.zeros(len(numbers), dtype=bool)
    few[:: max(1, len(numbers) // ENOUGH)] = True
    for text in Bank(rows.part(few), effort).find(numbers[few], effort):
        evaluate = compiled(text)
        if all(evaluate(row) == number for row, number in zip(rows.facts, numbers.tolist(), strict=True)):
            return text
    return None


class Level:
    """Products of one kind, a column each."""

    def __init__(self, columns: dict[str, np.ndarray], length: int) -> None:
        self.texts = list(columns)
        self.values = np.array(list(columns.values()), dtype=np.int64).reshape(len(columns), length)

    def linear(self, target: np.ndarray) -> Iterator[str]:
        """`factor * text + number`, or a part of it, for each text that gives `target`."""
        if not self.texts:
            return
        at = int(np.argmax(target != target[0]))
        rise = int(target[at] - target[0])
        run = self.values[:, at] - self.values[:, 0]
        nonzero = np.where(run == 0, 1, run)
        factor = rise // nonzero
        number = target[0] - factor * self.values[:, 0]
        likely = (run != 0) & (rise % nonzero == 0) & (np.abs(number) <= CONSTANT)
        for column in np.nonzero(likely)[0]:
            if (target == factor[column] * self.values[column] + number[column]).all():
                yield written([(int(factor[column]), self.texts[column])], int(number[column]))
        for divisor in (2, 4, 8, 16):
            ends = self.values[:, [0, at]] // divisor == target[[0, at]]
            for column in np.nonzero(ends.all(axis=1))[0]:
                if (self.values[column] // divisor == target).all():
                    text = self.texts[column]
                    yield f"({text}) // {divisor}" if " " in text else f"{text} // {divisor}"


class Bank:
    """Products of fields, to look numbers up in."""

    def __init__(self, rows: Rows, effort: int) -> None:
        self._rows, self._length = rows, len(rows)
        self._atoms: dict[str, np.ndarray] = {}
        for hint in rows.hints:
            self._try(hint)
        for name in rows.names(int):
            if len(rows.seen()[name]) > 1 and not (name.endswith("_token_id") and effort):
                self._atoms[name] = rows.column(name)
        for name in rows.names(list):
            for text in (
                f"len({name})",
                f"sum({name})",
                *(f"{name}[{c}]" for c in COUNTERS),
                f"{name}[0]",
                f"{name}[-1]",
            ):
                self._try(text)

    def _try(self, text: str) -> None:
        try:
            values = [compiled(text)(row) for row in self._rows.facts]
        except UNDECIDED:
            return
        if all(type(value) is int for value in values) and len({*values}) > 1:
            self._atoms[text] = np.array(values, dtype=np.int64)

    def find(self, target: np.ndarray, effort: int) -> Iterator[str]:
        """Expressions that give `target`, the simplest first."""
        yield from Level(self._atoms, self._length).linear(target)
        products, quotients = self._products(), self._quotients()
        if effort == 0:
            yield from Level(products, self._length).linear(target)
            yield from Level(quotients, self._length).linear(target)
        elif effort == 1:
            yield from Level(self._triples(products, quotients), self._length).linear(target)
        else:
            yield from self._sums(target, self._atoms | products | quotients)

    def _products(self) -> dict[str, np.ndarray]:
        atoms = list(self._atoms.items())
        return {f"{a} * {b}": x * y for n, (a, x) in enumerate(atoms) for b, y in atoms[n:]}

    def _quotients(self) -> dict[str, np.ndarray]:
        found = {}
        for a, x in self._atoms.items():
            for b, y in self._atoms.items():
                if a != b and (y > 0).all():
                    found[f"{a} // {b}"] = x // y
        return found

    def _triples(self, products: dict[str, np.ndarray], quotients: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = {}
        for a, x in products.items():
            for b, y in self._atoms.items():
                found[f"{a} * {b}"] = x * y
        for a, x in quotients.items():
            for b, y in self._atoms.items():
                found[f"{b} * ({a})"] = x * y
        for a, x in quotients.items():
            found[f"({a}) * ({a})"] = x * x  # patches of a picture; of all pairs there are too many
        return found

    def _sums(self, target: np.ndarray, simple: dict[str, np.ndarray]) -> Iterator[str]:
        """Two products, each maybe several times, and a constant."""
        by_value = {column.tobytes(): text for text, column in reversed(simple.items())}
        for text, column in simple.items():
            for factor in (1, 2, -1, 3, 4):
                rest = target - factor * column
                for other in (1, 2, -1):
                    for number in (0, 1, -1, 2, -2):
                        shifted = rest - number
                        if other == 2 and (shifted % 2).any():
                            continue
                        found = by_value.get((shifted // other).tobytes())
                        if found is not None:
                            yield written([(factor, text), (other, found)], number)


def written(terms: list[tuple[int, str]], number: int) -> str:
    """A sum, as people write it."""
    parts = []
    for factor, text in terms:
        if factor == 1:
            parts.append(f"+ {text}")
        else:
            inner = f"({text})" if " " in text and ("//" in text or abs(factor) == 1) else text
            parts.append(f"{'-' if factor < 0 else '+'} {f'{abs(factor)} * ' if abs(factor) != 1 else ''}{inner}")
    if number:
        parts.append(f"{'-' if number < 0 else '+'} {abs(number)}")
    parts.sort(key=lambda part: part.startswith("-"))
    return " ".join(parts).removeprefix("+ ")
