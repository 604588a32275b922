"""What is counted while weights are made, by tensor."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Seen(NamedTuple):
    """What was seen in elements of one tensor."""

    infinite: int = 0
    """Finite elements that became infinite in the cast."""
    differing: int = 0
    """Elements whose saved copy is not what the cast has made of them."""

    def and_more(self, more: Seen) -> Seen:
        """Both together."""
        return Seen(self.infinite + more.infinite, self.differing + more.differing)


NOTHING = Seen()


@dataclass(frozen=True, slots=True)
class Counts:
    """The sums by tensor, of those that have any: plain values, which whoever interrupts a run can keep."""

    overflows: dict[str, int] = field(default_factory=dict)
    differing: dict[str, int] = field(default_factory=dict)

    @classmethod
    def kept_in(cls, facts: dict[str, Any]) -> Counts:
        """Those that are among the facts of a file, and go on being counted there."""
        return cls(facts.setdefault("overflows", {}), facts.setdefault("differing", {}))

    @classmethod
    def summed(cls, all_facts: Iterable[Mapping[str, Any]]) -> Counts:
        """Those of several files, or of several stretches of one."""
        found = cls()
        for facts in all_facts:
            for name, count in facts.get("overflows", {}).items():
                found.add(name, Seen(infinite=count))
            for name, count in facts.get("differing", {}).items():
                found.add(name, Seen(differing=count))
        return found

    def add(self, name: str, seen: Seen) -> None:
        """Count what was seen in more elements of a tensor."""
        for counted, more in ((self.overflows, seen.infinite), (self.differing, seen.differing)):
            if more:
                counted[name] = counted.get(name, 0) + more
