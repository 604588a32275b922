"""Counts and lists -> phrases for reports and errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A count with its noun, in the singular or the plural.

    >>> counted(1, "tensor"), counted(13380, "parameter"), counted(2, "copy", "copies")
    ('1 tensor', '13,380 parameters', '2 copies')
    """
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def listed(items: Sequence[str], most: int = 6, rest: str = "") -> str:
    """The first `most` items and the number of the others, followed by `rest`, which says where to find those.

    >>> listed(["a", "b"]), listed(["a", "b", "c", "d"], 2, ", see zeroconsolidate.json")
    ('a, b', 'a, b and 2 more, see zeroconsolidate.json')
    """
    # One more takes no more room than saying that there is one more.
    if len(items) <= most + 1:
        return ", ".join(items)
    return f"{', '.join(items[:most])} and {len(items) - most} more{rest}"
