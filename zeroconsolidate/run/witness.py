"""Master weights and their copies -> the number of elements compared, or an error where they differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import Disagreement, WitnessMismatch, ZeroConsolidateError, at
from .compare import extents_of, first_difference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..plan.witness import Comparison
    from .compare import Difference
    from .inputs import Inputs


def compare(
    comparisons: Iterable[Comparison], inputs: Inputs, *, progress: Callable[[int], None] = lambda _: None
) -> int:
    """Returns the number of elements compared. At the first that differs raises WitnessMismatch, or for replicas
    Disagreement."""
    compared, comparisons = 0, list(comparisons)
    coming = (extent for each in comparisons for extent in extents_of(each.master, each.copy, each.intervals))
    with inputs.files.expecting(coming):
        for comparison in comparisons:
            with at(comparison.name):
                for start, stop in comparison.intervals:
                    found = first_difference(
                        inputs, comparison.master, comparison.copy, start=start, stop=stop, progress=progress
                    )
                    if found is not None:
                        raise _mismatch(comparison, found)
                    compared += stop - start
    return compared


def drifted(comparisons: Iterable[Comparison], inputs: Inputs) -> list[str]:
    """Names of the tensors whose replicas differ."""
    names: dict[str, None] = {}
    for comparison in comparisons:
        if comparison.name not in names:
            try:
                compare([comparison], inputs)
            except Disagreement:
                names[comparison.name] = None
    return list(names)


def _mismatch(comparison: Comparison, found: Difference) -> ZeroConsolidateError:
    if comparison.holders:
        first, other = comparison.holders
        return Disagreement(
            (
                f"the copies that {first} and {other} hold of the same tensor differ (element "
                f"{found.index}): {found.expected!r} and {found.got!r}"
            ),
            consequence="they drifted apart during training, so no merge of them is exact; no output was written",
            remedy="--replicas first writes the first copy",
        )
    return WitnessMismatch(
        f"the master weights do not round to the copy in 'module' (element {found.index})",
        expected=repr(found.got),
        found=repr(found.expected),
        consequence="a file may belong to another save, or the layout was not understood; no output was written",
        remedy="--no-check writes it anyway",
    )
