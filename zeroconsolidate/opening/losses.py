"""The catalog of an incomplete checkpoint -> how much of each tensor is lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..archive.located import LOST
from ..archive.phrases import counted
from ..plan.build import placed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..catalog.facts import Catalog
    from ..plan.build import Source
    from ..plan.pieces import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """How much of one tensor is lost with the files that are missing.

    Sizes are those in the checkpoint: master weights take four bytes an element.

    Attributes
    ----------
    name : str
        Its name in the checkpoint.
    role : str
        `trainable`, `frozen` or `buffer`.
    numel : int
        Elements of the tensor.
    lost_numel : int
        Elements that are lost.
    nbytes : int
        Bytes of the tensor.
    lost_bytes : int
        Bytes that are lost.
    fate

    Examples
    --------
    >>> Loss(name="a", role="trainable", numel=4, lost_numel=2, nbytes=16, lost_bytes=8).fate
    'partly lost'
    """

    name: str
    role: str
    numel: int
    lost_numel: int
    nbytes: int
    lost_bytes: int

    @property
    def fate(self) -> str:
        """`whole`, `partly lost` or `lost`."""
        return "whole" if not self.lost_numel else "lost" if self.lost_numel == self.numel else "partly lost"


def gaps(recipe: Recipe) -> list[tuple[int, int]]:
    """The half-open intervals of a tensor's elements that were in lost files, in order, neighbours joined."""
    found: list[tuple[int, int]] = []
    runs = sorted(
        (copy.start + i * copy.step, copy.start + i * copy.step + copy.run_numel)
        for copy in recipe.copies()
        if copy.file == LOST
        for i in range(copy.count)
    )
    for start, stop in runs:
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], stop)
        elif start < stop:
            found.append((start, stop))
    return found


def losses(catalog: Catalog) -> tuple[Loss, ...]:
    """Every stored tensor of the checkpoint with what is lost of it, in the order of the module."""
    return tuple(_loss(source) for source in placed(catalog).values())


def _loss(source: Source) -> Loss:
    itemsize, numel = source.recipe.dtype.itemsize, source.recipe.numel
    lost = sum(stop - start for start, stop in gaps(source.recipe))
    return Loss(
        name=source.name,
        role=source.role,
        numel=numel,
        lost_numel=lost,
        nbytes=numel * itemsize,
        lost_bytes=lost * itemsize,
    )


def in_words(found: Sequence[Loss]) -> str:
    """What is lost in all, in words.

    >>> in_words([Loss(name="a", role="trainable", numel=4, lost_numel=2, nbytes=16, lost_bytes=8)])
    '1 of 1 tensor is partly lost; 50.0 % of all bytes are lost'
    """
    counts = {fate: sum(loss.fate == fate for loss in found) for fate in ("lost", "partly lost")}
    lost, held = sum(loss.lost_bytes for loss in found), sum(loss.nbytes for loss in found)
    hit = {fate: count for fate, count in counts.items() if count}
    if not hit:
        return "no tensor has lost values: only padding was in these files"
    (first, count), *others = hit.items()
    total, whole = len(found), len(found) - sum(hit.values())
    clauses = [
        f"{'all' if count == total > 1 else f'{count} of'} {counted(total, 'tensor')} "
        f"{'is' if count == 1 else 'are'} {first}",
        *(f"{n} {fate}" for fate, n in others),
        *([f"{whole} whole"] if whole else []),
    ]
    return f"{', '.join(clauses)}; {100 * lost / max(held, 1):.1f} % of all bytes are lost"
