"""Paths and options -> the checkpoints that a mean is taken of, each with the options of opening it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..options import roots_of
from .target import settled, settled_on

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..options import Options, Roots
    from .averaged import Averaged


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
    from .averaged import saves_of  # checkpoints that are given as such do not pay for it

    found, chosen = saves_of(src, options, averaged)
    # Not by their names: a save may be called `best` or `last`, which mean others.
    return [settled_on(save, found, src, alone) for save in chosen]
