"""Paths and options -> the checkpoints that a mean is taken of, each with the options of opening it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..archive.phrases import counted, listed
from ..errors import BadOption
from ..options import roots_of
from .run import read_run
from .target import settled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..options import Options, Roots


def several(src: Roots, options: Options, *, tags: Sequence[str] = ()) -> list[tuple[Roots, Options]]:
    """The one checkpoint that is meant; with `options.average` each of them, in the order of the paths, or of the
    saves in a run directory. `tags`: of the saves in that, where they are known.

    Raises BadOption if the run has too few complete saves, NotACheckpoint as `settled` does.
    """
    if options.average is None:
        return [settled(src, options)]
    alone = replace(options, average=None, last=None)
    if options.last is None and not (tags and len(roots_of(src)) == 1):
        return [settled(path, alone) for path in roots_of(src)]
    run = read_run(src, files_read=options.files_read)
    names = [save.name for tag in tags for save in run.saves if tag in (save.name, save.tag)]
    if not tags:
        wanted = int(str(options.last))
        complete = [save.name for save in run.saves if save.complete]
        if len(complete) < wanted:
            raise BadOption(
                f"the run has too few complete saves for --last {wanted}",
                found=f"{counted(len(complete), 'complete save')} of {len(run.saves)}: {listed(complete, 8)}",
                address=(run.root,),
            )
        names = complete[-wanted:]
    return [settled(src, replace(alone, checkpoint=name)) for name in names]
