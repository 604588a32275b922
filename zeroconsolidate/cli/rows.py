"""How printed text is laid out: rows of a label and a text, at most 100 columns wide; durations; nothing twice."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

COLUMNS = 100
"""Longer lines are folded between words. A single longer word, such as a path, is kept whole."""
_RATED_SECONDS = 1.0
_RATED_GB_PER_SECOND = 0.01
"""Below these a rate says nothing about the disk."""


def time_text(seconds: float) -> str:
    """A duration in units that mean something.

    >>> time_text(0.034), time_text(8.72), time_text(75), time_text(4000)
    ('0.03 s', '8.7 s', '1 min 15 s', '1 h 7 min')
    """
    if seconds < 9.95:
        return f"{seconds:.{2 if seconds < 1 else 1}f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if seconds < 3599.5:
        return f"{round(seconds) // 60} min {round(seconds) % 60} s"
    return f"{minutes // 60} h {minutes % 60} min"


def time_row(seconds: float, gb_per_second: float) -> str:
    """A duration, with the rate where that says something."""
    is_rated = seconds >= _RATED_SECONDS and gb_per_second >= _RATED_GB_PER_SECOND
    return time_text(seconds) + (f", {gb_per_second:.2f} GB/s" if is_rated else "")


def once(texts: Iterable[str]) -> list[str]:
    """Texts without repetitions: those that differ only in the name they begin with become one, with a count.

    >>> once(["a is odd", "b is odd", "a is odd", "else"])
    ['a is odd (1 more like it)', 'else']
    """
    alike: dict[str, list[str]] = {}
    for text in dict.fromkeys(texts):
        alike.setdefault(text.partition(" ")[2] or text, []).append(text)
    return [f"{same[0]} ({len(same) - 1} more like it)" if len(same) > 1 else same[0] for same in alike.values()]


def at_most(texts: Sequence[str], most: int) -> list[str]:
    """The first texts, and how many more there are."""
    return [*texts[:most], *([f"and {len(texts) - most} more"] if len(texts) > most else [])]


def rows_text(rows: Sequence[tuple[str, str]]) -> str:
    """A line for each label with its text, folded where it is long."""
    width = max(len(label) for label, _ in rows)
    return "\n".join(folded(f"  {label:<{width}}  {text}", " " * (width + 4)) for label, text in rows)


def folded(line: str, indent: str) -> str:
    """A line, folded into as many as it needs; all but the first are indented."""
    if len(line) <= COLUMNS:
        return line
    # Blanks of the label are kept: `wrap` works on what stands behind it.
    head, rest = line[: len(indent)], line[len(indent) :]
    folded = wrap(rest, COLUMNS - len(indent), break_long_words=False, break_on_hyphens=False)
    return f"\n{indent}".join([head + folded[0], *folded[1:]])
