"""Compares masters with their 16-bit copies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import WitnessMismatch, at
from .compare import first_difference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..plan.witness import Comparison
    from .inputs import Inputs


def compare(
    comparisons: Iterable[Comparison], inputs: Inputs, *, progress: Callable[[int], None] = lambda _: None
) -> int:
    """Returns the number of elements compared. Raises WitnessMismatch at the first that differs."""
    compared = 0
    for comparison in comparisons:
        with at(comparison.name):
            for start, stop in comparison.intervals:
                found = first_difference(
                    inputs, comparison.master, comparison.copy, start=start, stop=stop, progress=progress
                )
                if found is not None:
                    raise WitnessMismatch(
                        f"the master weights do not round to the copy in 'module' (element {found.index}): "
                        f"expected {found.got!r}, got {found.expected!r}; a file may be of another save, or the "
                        "layout is not what it seems; nothing was written (--no-check writes it all the same)"
                    )
                compared += stop - start
    return compared
