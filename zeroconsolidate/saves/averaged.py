"""A run directory -> those of its saves that a mean is taken of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..archive.phrases import counted, listed
from ..errors import BadOption, NotACheckpoint
from ..options import roots_of
from .listing import list_saves
from .metadata import examine
from .run import read_run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..options import Options, Roots
    from .facts import RunInfo, SaveInfo
    from .listing import Found

Averaged = tuple[str, "int | None"]
"""Tag and step of a checkpoint, as the manifest of a mean lists it."""


def saves_of(src: Roots, options: Options, averaged: Sequence[Averaged]) -> tuple[Found, list[SaveInfo]]:
    """All saves, and of these the last complete ones, or those that are known to be `averaged`.

    Raises BadOption if there are too few, NotACheckpoint if one of those that are known is not there.
    """
    found = list_saves(roots_of(src))
    run = read_run(src, found, files_read=options.files_read)
    chosen = [_of(each, run, found) for each in averaged] if averaged else _last(run, int(str(options.last)))
    return found, chosen


def _last(run: RunInfo, wanted: int) -> list[SaveInfo]:
    complete = [save for save in run.saves if save.complete]
    if len(complete) < wanted:
        names = listed([save.name for save in complete], 8)
        raise BadOption(
            f"the run has too few complete saves for --last {wanted}",
            found=f"{counted(len(complete), 'complete save')} of {len(run.saves)}: {names}",
            address=(run.root,),
        )
    return complete[-wanted:]


def _of(averaged: Averaged, run: RunInfo, found: Found) -> SaveInfo:
    """The save with this tag; of several with one tag, as accelerate and Lightning write them, that of this step."""
    tag, step = averaged
    fitting = [save for save in run.saves if tag in (save.name, save.tag)]
    if len(fitting) > 1:
        listings = {listing.name: listing for listing in found.listings}
        fitting = [save for save in fitting if examine(listings[save.name]).step == step]
    if len(fitting) != 1:
        raise NotACheckpoint(
            f"the run has {'no save' if not fitting else 'several saves'} with the tag {tag[:80]!r} of step {step}, "
            "which the mean was taken of",
            found=listed([save.name for save in fitting or run.saves], 8),
            remedy="name the checkpoints that it was taken of, in their order",
            address=(run.root,),
        )
    return fitting[0]
