"""A checkpoint that was read -> whether a training can resume from it, or from a save beside it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..errors import NotACheckpoint
from ..options import roots_of
from ..options.urls import absolute, normal
from .judge import is_a_step
from .listing import list_saves
from .metadata import examine, examined_with
from .resuming import resume_of
from .run import read_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..opening.incomplete import Incomplete
    from ..opening.resume import Resume
    from ..options import Roots
    from .facts import Examined, Listing, SaveInfo


def beside(
    src: Roots, left: Incomplete, *, files_read: Callable[[int, int], None] | None = None
) -> tuple[dict[str, bool], Resume | None]:
    """(whether each tag in the directory is complete, as far as that is known; from where a training can resume).
    `left`: what was read of one of them. `files_read(n, total)` is called as files of others are read."""
    roots = roots_of(src)
    found = list_saves(roots)
    if not found.listings:
        return {}, None

    def read(listing: Listing) -> Examined:
        is_read = not listing.is_tag or listing.name == left.catalog.origin.tag
        return examined_with(left, listing) if is_read else examine(listing, files_read=files_read)

    run = read_run(src, found, read=read)
    complete = {save.name: save.complete for save in run.saves if save.checked == "metadata"}
    if any(listing.is_tag for listing in found.listings):
        return complete, run.resume
    this = run.newest
    others = () if this.whole else _others(roots[0], this, files_read)
    return {}, resume_of((*others, this), None)


def _others(root: str, this: SaveInfo, files_read: Callable[[int, int], None] | None) -> tuple[SaveInfo, ...]:
    """The other saves of the run that a checkpoint belongs to, if it lies in the directory of one."""
    if not is_a_step(this.name):
        return ()
    own, given = os.path.basename(absolute(root)), normal(root)
    parent = os.path.dirname(given) or "."
    if os.path.basename(given) != own:
        parent = os.path.dirname(absolute(root))
    try:
        found = list_saves([parent])
    except NotACheckpoint:
        return ()
    if not found.is_run or this.name not in {listing.name for listing in found.listings}:
        return ()
    run = read_run([parent], found, files_read=files_read)
    return tuple(save for save in run.saves if save.name != this.name and is_a_step(save.name))
