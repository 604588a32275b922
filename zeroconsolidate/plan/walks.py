"""Steps from one number to another -> walks that take every step once, as few of them as there can be.

A step leads from the number at which something begins to the one at which it ends, so that two that follow each other
in a walk can be laid end to end:

    steps    a: 3 -> 3    b: 3 -> 7    c: 5 -> 5    d: 7 -> 3
    walks    a b d (3, 3, 7, 3)   and   c (5, 5)

Where more steps leave a number than reach it, walks must begin, and where more reach it than leave it, end. An
imaginary step from each such end to such a beginning makes a closed walk of all steps that hang together, which always
exists (Euler) and is found without trying (Hierholzer); it is cut again where the imaginary steps are.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_Leaving = dict[int, list[tuple[int, int | None]]]
"""Number -> the steps that leave it, in descending order: where each leads, and its index (None: it is imaginary)."""


def walks(steps: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Indices of steps (from, to), by walk. Walks stand in the order of their lowest index."""
    surplus: Counter[int] = Counter()
    for begin, end in steps:
        surplus[begin] += 1
        surplus[end] -= 1
    begins = [number for number, count in surplus.items() for _ in range(count)]
    ends = [number for number, count in surplus.items() for _ in range(-count)]
    leaving: _Leaving = defaultdict(list)
    for end, begin in zip(ends, begins, strict=True):
        leaving[end].append((begin, None))
    for index in reversed(range(len(steps))):
        begin, end = steps[index]
        leaving[begin].append((end, index))
    found = [walk for begin, _ in steps if leaving[begin] for walk in _cut(_closed(leaving, begin))]
    return sorted(found, key=min)


def _closed(leaving: _Leaving, begin: int) -> list[int | None]:
    """A closed walk from `begin` of all steps that hang together with it; they are taken out of `leaving`."""
    way: list[tuple[int, int | None]] = [(begin, None)]
    closed: list[int | None] = []
    while way:
        here, index = way[-1]
        if leaving[here]:
            way.append(leaving[here].pop())
        else:
            way.pop()
            closed.append(index)
    closed.pop()  # nothing led to the beginning
    return closed[::-1]


def _cut(closed: list[int | None]) -> list[list[int]]:
    """The walks between imaginary steps."""
    if None in closed:
        behind = closed.index(None) + 1
        closed = closed[behind:] + closed[:behind]
    found: list[list[int]] = [[]]
    for index in closed:
        if index is None:
            found.append([])
        else:
            found[-1].append(index)
    return [walk for walk in found if walk]
