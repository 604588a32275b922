"""A run directory and options -> the one checkpoint that is meant, and its tag."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from ..archive.discover import is_checkpoint
from ..archive.phrases import listed
from ..errors import BadOption, NotACheckpoint
from ..opening.resume import LAST_COMPLETE
from ..options import Counting, Opening, roots_of

if TYPE_CHECKING:
    from ..options import Roots
    from .facts import Listing, SaveInfo
    from .listing import Found

O = TypeVar("O", bound=Opening)  # noqa: E741


def settled(src: Roots, options: O, *, newest_of_several: bool = False) -> tuple[Roots, O]:
    """`src` and `options` with the checkpoint that is meant, if `src` is a run directory or `checkpoint` is given; as
    they are, if it is a checkpoint. `newest_of_several`: take the newest complete save if there
    are several and nothing says which.

    Raises NotACheckpoint if there are several and nothing says which, or not the one that is said.
    """
    roots = roots_of(src)
    files_read = options.files_read if isinstance(options, Counting) else None
    if options.checkpoint is not None:
        from .choice import choose  # a checkpoint that is given as such does not pay for it
        from .listing import list_saves
        from .run import read_run

        found = list_saves(roots)
        return settled_on(
            choose(read_run(roots, found, files_read=files_read), options.checkpoint), found, src, options
        )
    run = found_run(roots)
    if run is None:
        return src, options
    from .choice import choose
    from .run import read_run

    if options.tag == LAST_COMPLETE:
        return list(choose(read_run(roots, run, files_read=files_read), LAST_COMPLETE).paths), replace(
            options, tag=None
        )
    if options.tag is None and newest_of_several:
        info = read_run(roots, run, files_read=files_read)
        return list((info.last_complete or info.newest).paths), options
    listing = _named(run, options.tag) if options.tag is not None else _only(run, roots[0])
    return list(listing.paths), replace(options, tag=None if options.tag == listing.name else options.tag)


def settled_on(save: SaveInfo, found: Found, src: Roots, options: O) -> tuple[Roots, O]:
    """What `settled` gives for one of the saves that were `found`. Raises BadOption if `options` names a tag as
    well."""
    if any(listing.is_tag for listing in found.listings):
        if options.tag is not None:
            raise BadOption("--tag and --checkpoint both say which save to read", expected="one of them")
        return src, replace(options, tag=save.name, checkpoint=None)
    return list(save.paths), replace(options, checkpoint=None)


def found_run(roots: list[str]) -> Found | None:
    """The saves in a run directory; None if it is a checkpoint, or anything else."""
    if not roots or all(is_checkpoint(root) for root in roots):
        return None
    from .listing import list_saves

    try:
        found = list_saves(roots)
    except NotACheckpoint:
        return None  # who opens it says why
    return found if found.is_run else None


def _named(run: Found, tag: str) -> Listing:
    """The save with this name, or the only one with this tag in it."""
    named = [listing for listing in run.listings if listing.name == tag]
    tagged = [listing for listing in run.listings if listing.tag == tag]
    if named or len(tagged) == 1:
        return (named or tagged)[0]
    raise NotACheckpoint(
        f"there is no checkpoint {tag[:80]!r} in this run directory" if not tagged
        else f"several checkpoints of this run have the tag {tag[:80]!r}",
        found=_names(run),
        remedy="choose one with --checkpoint last-complete, or a step",
    )  # fmt: skip


def _only(run: Found, root: str) -> Listing:
    if len(run.listings) == 1:
        return run.listings[0]
    newest = run.listings[-1].paths[0]
    raise NotACheckpoint(
        "this is a directory of checkpoints, not a checkpoint",
        consequence=f"name one of them: {_names(run)}",
        remedy=(
            "--checkpoint last-complete takes the newest complete one",
            f"zeroconsolidate convert {shlex.quote(newest)} OUTPUT",
        ),
        address=(root,),
    )


def _names(run: Found) -> str:
    return listed([listing.name for listing in run.listings], 12)
