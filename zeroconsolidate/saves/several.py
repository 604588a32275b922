"""Paths and options -> the checkpoints that a mean is taken of, each with the options of opening it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..archive.phrases import counted, listed
from ..errors import BadOption, NotACheckpoint
from ..options import roots_of
from .listing import list_saves
from .metadata import examine
from .run import read_run
from .target import settled, settled_on

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..options import Options, Roots
    from .facts import RunInfo, SaveInfo
    from .listing import Found

Averaged = tuple[str, "int | None"]
"""Tag and step of a checkpoint, as the manifest of a mean lists it."""


def several(src: Roots, options: Options, *, averaged: Sequence[Averaged] = ()) -> list[tuple[Roots, Options]]:
    """The one checkpoint that is meant; with `options.average` each of them, in the order of the paths, or of the
    saves in a run directory. `averaged`: which saves in that, where it is known.

    Raises BadOption if the run has too few complete saves, NotACheckpoint if one of those that are known is not there,
    and as `settled` does.
    """
    if options.average is None:
        return [settled(src, options)]
    alone = replace(options, average=None, last=None)
    if options.last is None and not (averaged and len(roots_of(src)) == 1):
        return [settled(path, alone) for path in roots_of(src)]
    found = list_saves(roots_of(src))
    run = read_run(src, found, files_read=options.files_read)
    chosen = [_of(each, run, found) for each in averaged] if averaged else _last(run, int(str(options.last)))
    # Not by their names: a save may be called `best` or `last`, which mean others.
    return [settled_on(save, found, src, alone) for save in chosen]


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
