"""Master weights and their copies -> the number of elements compared, or an error where they differ."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from ..errors import Disagreement, WitnessMismatch, ZeroConsolidateError, at
from .compare import differences

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    from ..plan.witness import Comparison
    from .compare import Difference
    from .inputs import Inputs


def compared(
    comparisons: Iterable[Comparison],
    inputs: Inputs,
    *,
    others: Sequence[Inputs] = (),
    progress: Callable[[int], None] = lambda _: None,
) -> Generator[tuple[Comparison, ZeroConsolidateError | None]]:
    """Each comparison, in order, with the error if there is a difference: WitnessMismatch, or for replicas
    Disagreement. With `others`, inputs for a further thread each, in several threads. Raises DamagedFile."""
    for comparison, found in differences(comparisons, inputs, others=others, progress=progress):
        if isinstance(found, ZeroConsolidateError):
            with at(comparison.name):
                raise found
        yield comparison, None if found is None else _mismatch(comparison, found)


def compare(
    comparisons: Iterable[Comparison],
    inputs: Inputs,
    *,
    others: Sequence[Inputs] = (),
    progress: Callable[[int], None] = lambda _: None,
) -> int:
    """Returns the number of elements compared. Raises the error of the first comparison that has one."""
    numel = 0
    with closing(compared(comparisons, inputs, others=others, progress=progress)) as results:
        for comparison, error in results:
            if error is not None:
                with at(comparison.name):
                    raise error
            numel += comparison.numel
    return numel


def drifted(comparisons: Iterable[Comparison], inputs: Inputs, *, others: Sequence[Inputs] = ()) -> list[str]:
    """Names of the tensors whose replicas differ."""
    results = compared(comparisons, inputs, others=others)
    return list(dict.fromkeys(comparison.name for comparison, error in results if error is not None))


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
