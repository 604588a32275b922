"""Patterns such as `*.weight` -> the names that match."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from ..errors import BadOption

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def matches(glob: str, names: Iterable[str]) -> bool:
    """Whether any of the names matches.

    >>> matches("layers.*.weight", ["layers.0.bias"])
    False
    """
    return any(fnmatchcase(name, glob) for name in names)


def refuse_unmatched(globs: Sequence[str], names: Iterable[str]) -> None:
    """Raise BadOption for an `--include` that none of the names matches: what was meant would not be written."""
    names = list(names) if globs else []
    for glob in globs:
        if not matches(glob, names):
            from difflib import get_close_matches

            near = get_close_matches(glob.strip("*"), names, n=2, cutoff=0.4)
            raise BadOption(
                f"--include {glob!r} matches no tensor",
                consequence=f"the nearest names are {' and '.join(near)}" if near else None,
                remedy="zeroconsolidate inspect --tensors CHECKPOINT lists all names",
            )
