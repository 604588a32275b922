"""The journals of parts -> what is known of the files that they have made, if each has made its share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..archive.phrases import listed
from ..errors import BadOption

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ..plan.stretches import Part, Stretch
    from .journal import Progress


def told(
    journals: Mapping[Part, Progress | None],
    token: str | None,
    shares: Mapping[Part, Sequence[Stretch]],
    files: Iterable[str],
) -> dict[str, list[dict[str, Any]]]:
    """What the parts remember of each file. `journals`: None for a part that has none; one with another token does not
    count.

    Raises BadOption if a part is not finished.
    """
    facts: dict[str, list[dict[str, Any]]] = {name: [] for name in files}
    lacking = []
    for part, stretches in shares.items():
        progress = journals[part]
        if progress is None or progress.token != token:
            if stretches:
                lacking.append(f"{part} (not begun)")
            continue
        made = sum(_made(progress, stretch) for stretch in stretches)
        whole = sum(stretch.nbytes for stretch in stretches)
        if made < whole:
            lacking.append(f"{part} ({100 * made // whole} % written)")
            continue
        for stretch in stretches:
            facts[stretch.file].append(progress.facts[stretch.file])
    if lacking:
        first = lacking[0].partition(" ")[0]
        raise BadOption(
            f"{len(lacking)} of {len(shares)} parts are not finished: {listed(lacking, 8)}",
            remedy=f"run them again, and then --finish: the same command with --part {first} in place of --finish",
        )
    return facts


def _made(progress: Progress, stretch: Stretch) -> int:
    """How many bytes of a stretch a journal vouches for. All of them only if it was kept whole."""
    if progress.done.get(stretch.file) == stretch.stop:
        return stretch.nbytes
    upto = progress.upto.get(stretch.file, stretch.start)
    return min(max(upto - stretch.start, 0), stretch.nbytes - 1)
