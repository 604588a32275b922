"""A share, such as 5 % or 10 GB -> which tensors or files are read, and what is said of the others.

They are taken in the order of a digest of their names, which has nothing to do with their place in the model, while
they fit into the share. So 5 % find one damaged place with a probability of about 5 %, and a damaged disk sooner.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from ..archive.phrases import counted, listed
from ..options import size_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..options.share import Share
    from .findings import Findings


@dataclass(frozen=True, slots=True, kw_only=True)
class Subset:
    """What is read."""

    chosen: frozenset[str]
    unread: tuple[str, ...]
    """In the order in which they were given."""
    chosen_bytes: int
    all_bytes: int

    def __contains__(self, name: str) -> bool:
        return name in self.chosen

    def tell(self, findings: Findings, what: str) -> None:
        """Say what was not read; `what` they are, in the singular."""
        findings.unread += self.unread
        if self.unread:
            findings.notes.append(
                f"not read, with --subset: {counted(len(self.unread), what)} of {len(self.unread) + len(self.chosen)}, "
                f"{size_text(self.all_bytes - self.chosen_bytes)} of {size_text(self.all_bytes)}: "
                f"{listed(self.unread, 4)}"
            )


def choose(sizes: Mapping[str, int], share: Share | None) -> Subset:
    """Which of these are read: their sizes together are at most the share, but one is always read. All without a share.

    >>> from ..options.share import Share
    >>> choose({"a": 60, "b": 30, "c": 10}, Share.parse("50%")).chosen == {"b", "c"}
    True
    """
    all_bytes = sum(sizes.values())
    if share is None:
        return Subset(chosen=frozenset(sizes), unread=(), chosen_bytes=all_bytes, all_bytes=all_bytes)
    left = share.of(all_bytes)
    chosen = set()
    for name in sorted(sizes, key=lambda name: sha256(name.encode()).digest()):
        if sizes[name] <= left:
            chosen.add(name)
            left -= sizes[name]
    if sizes and not any(sizes[name] for name in chosen):
        chosen.add(
            min((name for name in sizes if sizes[name]), key=lambda name: (sizes[name], name), default=min(sizes))
        )
    return Subset(
        chosen=frozenset(chosen),
        unread=tuple(name for name in sizes if name not in chosen),
        chosen_bytes=sum(sizes[name] for name in chosen),
        all_bytes=all_bytes,
    )
