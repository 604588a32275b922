"""Master weights without names -> which parameter each is, by shape, rounded value and order.

Values come first: if a rounded master equals the copy of one name only, it is that name. Others equal several copies
(norm weights that all round to 1, biases that all round to 0); for them order decides. A param group lists its
parameters in the order of the module, so a master lies between the names of its neighbours in the group:

    group   … q.weight   n?   up.weight …        n? equals norm1.weight and norm2.weight
    module  … q.weight   norm1.weight   up.weight   norm2.weight …
            n? is norm1.weight: no other that looks like it lies between q.weight and up.weight

What is still undecided after that is an error, unless every choice writes the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import UnsupportedLayout, WitnessMismatch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Look:
    """The shape, dtype and digest of a name's copy, or of a rounded master."""

    shape: tuple[int, ...]
    dtype: str
    digest: bytes
    """Of the elements' bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Master:
    """A master without a name."""

    looks: frozenset[Look]
    """Rounded to each dtype that the module has."""
    bits: bytes
    """Digest of its own elements."""
    is_copy: bool
    """Whether rounding lost nothing: then it makes no difference whether it or the copy is written."""


def assign(groups: Sequence[Sequence[Master]], names: Sequence[Mapping[str, Look]]) -> list[list[str]]:
    """By group, the name of each master. `names`: by group, its candidates in the order of the module.

    Raises WitnessMismatch if a master is no candidate's, UnsupportedLayout if two masters cannot be distinguished.
    """
    return _Assignment(groups, names).solve()


class _Assignment:
    def __init__(self, groups: Sequence[Sequence[Master]], names: Sequence[Mapping[str, Look]]) -> None:
        self._groups = groups
        self._names = names
        self._place = [{name: place for place, name in enumerate(candidates)} for candidates in names]
        self._found: list[list[str | None]] = [[None] * len(group) for group in groups]
        self._taken: set[str] = set()
        self._possible = [[self._like(g, master) for master in group] for g, group in enumerate(groups)]

    def solve(self) -> list[list[str]]:
        """Rounds of deduction until nothing more follows."""
        for g, group in enumerate(self._possible):
            for index, possible in enumerate(group):
                if not possible:
                    shape = next(iter(self._groups[g][index].looks)).shape if self._groups[g][index].looks else ()
                    raise WitnessMismatch(
                        f"master {index} of group {g}, of shape {shape}, does not round to any copy in the module",
                        consequence="a file may belong to another save",
                    )
        while self._by_appearance() or any(self._round(g) for g in range(len(self._groups))):
            pass
        self._indifferent()
        return [[name or "" for name in group] for group in self._found]

    def _by_appearance(self) -> bool:
        """One pass over all masters: those that look like one name only of those that are left are that, whatever
        the order."""
        progress = False
        for g, group in enumerate(self._found):
            for index, name in enumerate(group):
                if name is not None:
                    continue
                left = self._left(g, index)
                if not left:
                    raise WitnessMismatch(
                        f"master {index} of group {g} rounds to no copy in the module but those of other masters"
                    )
                if len(left) == 1:
                    self._give(g, index, left[0])
                    progress = True
        return progress

    def _left(self, g: int, index: int) -> list[str]:
        return [name for name in self._possible[g][index] if name not in self._taken]

    def _give(self, g: int, index: int, name: str) -> None:
        self._found[g][index] = name
        self._taken.add(name)

    def _like(self, g: int, master: Master) -> tuple[str, ...]:
        return tuple(name for name, look in self._names[g].items() if look in master.looks)

    def _round(self, g: int) -> bool:
        """One pass over a group: every run of like masters with as many names left for it as it has masters."""
        progress, index = False, 0
        group = self._found[g]
        in_order = self._in_order(g)
        while index < len(group):
            if group[index] is not None:
                index += 1
                continue
            low, high = self._bounds(g, index) if in_order else (-1, len(self._place[g]))
            like = self._possible[g][index]
            # The masters up to the next known neighbour that look like this one.
            run = [index]
            for other in range(index + 1, len(group)):
                if in_order and group[other] is not None:
                    break
                if group[other] is None and self._possible[g][other] == like:
                    run.append(other)
            free = self._left(g, index)
            left = [name for name in free if low < self._place[g][name] < high]
            if len(free) < len(run):
                raise WitnessMismatch(f"{len(run)} masters of group {g} round to the copies of {len(free)} parameters")
            if len(left) < len(run):
                raise UnsupportedLayout(
                    f"{len(run)} masters of group {g} have equal copies, and it is not in the order of the module: "
                    f"master {index} may be any of {', '.join(free[:4])}"
                )
            if len(left) == len(run) and (len(run) == 1 or in_order or self._equal(g, run)):
                for master, name in zip(run, left, strict=True):
                    self._give(g, master, name)
                progress = True
            index += 1
        return progress

    def _in_order(self, g: int) -> bool:
        """Whether what is known of the group is in the order of the module."""
        places = [self._place[g][name] for name in self._found[g] if name is not None]
        return places == sorted(places)

    def _bounds(self, g: int, index: int) -> tuple[int, int]:
        before = [self._place[g][name] for name in self._found[g][:index] if name is not None]
        behind = [self._place[g][name] for name in self._found[g][index:] if name is not None]
        return (before[-1] if before else -1), (behind[0] if behind else len(self._place[g]))

    def _equal(self, g: int, run: Sequence[int]) -> bool:
        return len({self._groups[g][index].bits for index in run}) == 1

    def _indifferent(self) -> None:
        """What is left may be given out in any way if no choice changes a byte that is written."""
        for g, group in enumerate(self._found):
            for index, name in enumerate(group):
                if name is not None:
                    continue
                left = self._left(g, index)
                rivals = [
                    self._groups[h][i]
                    for h, others in enumerate(self._found)
                    for i, other in enumerate(others)
                    if other is None and set(self._possible[h][i]) & set(left)
                ]
                same = len({rival.bits for rival in rivals}) == 1
                spare = len(left) - len(rivals)
                if not same or spare < 0 or (spare and not rivals[0].is_copy):
                    raise UnsupportedLayout(
                        f"master {index} of group {g} may be any of {', '.join(left[:4])}: their copies in the module "
                        "are equal, and the order does not tell which one it is"
                    )
                self._give(g, index, left[0])


MAX_TRIES = 4_000_000
"""Pairs of place and name that are compared before a flat master is given up."""


def walk(total: int, names: Sequence[tuple[str, int]], match: Callable[[int, int], bool]) -> list[str]:
    """The names laid end to end in a flat master of `total` elements, in the order of the module.

    `names`: candidates with their elements. `match(offset, index)`: whether the elements from `offset`, rounded, are
    the copy of candidate `index`. Raises WitnessMismatch if there is no way to fill the buffer, UnsupportedLayout if
    there are two, or too many to try.
    """
    solutions: list[tuple[int, ...]] = []
    tries = 0
    stack: list[tuple[int, int, tuple[int, ...]]] = [(0, 0, ())]
    while stack and len(solutions) < 2:
        offset, first, chosen = stack.pop()
        if offset == total:
            solutions.append(chosen)
            continue
        for index in range(len(names) - 1, first - 1, -1):
            numel = names[index][1]
            if numel and offset + numel <= total:
                tries += 1
                if tries > MAX_TRIES:
                    raise UnsupportedLayout(
                        "which parameters a flat master holds is not certain: too many have the same values"
                    )
                if match(offset, index):
                    stack.append((offset + numel, index + 1, (*chosen, index)))
    if not solutions:
        raise WitnessMismatch("the flat master does not round to copies of the module laid end to end")
    if len(solutions) > 1:
        one, other = solutions
        differing = next(names[index][0] for index in one if index not in other)
        raise UnsupportedLayout(
            f"the flat master may hold {differing} or another parameter whose copy in the module is equal"
        )
    return [names[index][0] for index in solutions[0]]
