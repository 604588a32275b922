"""Notes about tensors: what is said of many is said once, with their number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from ..archive.phrases import counted, listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SHOWN = 4
"""So many names are in the note itself."""


@dataclass(frozen=True, slots=True)
class Remark:
    """What is said of a tensor, and of several."""

    one: str
    several: str
    noun: str = "tensor"
    nouns: str = "tensors"


NO_TENSOR = Remark("is not a tensor and is left out", "are not tensors and are left out", "name", "names")
LEFT_TIED = Remark(
    "is tied to a parameter that was not saved; left out",
    "are tied to parameters that were not saved; left out",
    "name",
    "names",
)
NOT_LISTED = Remark(
    "is listed neither as parameter nor as buffer; written unchanged, as a buffer",
    "are listed neither as parameters nor as buffers; written unchanged, as buffers",
)
NOT_OPTIMIZED = Remark(
    "was not given to the optimizer, so it has no master; its value is that of the forward pass",
    "were not given to the optimizer, so they have no masters; their values are those of the forward pass",
)
UNKNOWN_TIE = Remark(
    "is left out, because only rank 0's lost file says which parameter it is tied to",
    "are left out, because only rank 0's lost file says which parameters they are tied to",
)

Noted: TypeAlias = "Mapping[Remark, tuple[str, ...]]"
"""Remark -> the names of which it is true."""


def merged(noted: Iterable[Noted]) -> dict[Remark, tuple[str, ...]]:
    """All of them together, each name once."""
    found: dict[Remark, dict[str, None]] = {}
    for one in noted:
        for remark, names in one.items():
            found.setdefault(remark, {}).update(dict.fromkeys(names))
    return {remark: tuple(names) for remark, names in found.items()}


def in_words(noted: Noted) -> dict[str, tuple[str, ...]]:
    """Note -> the names it is about.

    >>> list(in_words({NO_TENSOR: ("a",)})), list(in_words({NO_TENSOR: tuple("bcdefgh")}))
    (['a is not a tensor and is left out'], ['7 names are not tensors and are left out: b, c, d, e and 3 more'])
    """
    return {
        f"{names[0]} {remark.one}"
        if len(names) == 1
        else f"{counted(len(names), remark.noun, remark.nouns)} {remark.several}: {listed(names, SHOWN)}": names
        for remark, names in noted.items()
        if names
    }
