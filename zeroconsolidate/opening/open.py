"""From the paths people give to a catalog; and where that fails, what is lost and what can still be done."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from ..archive.discover import natural, tags_in
from ..archive.gather import gather
from ..archive.load import LoadReadable, load
from ..catalog.read import read
from ..errors import (
    DamagedFile,
    Disagreement,
    MissingFiles,
    NotACheckpoint,
    UnsafePath,
    UnsafePickle,
    UnsupportedLayout,
    WitnessMismatch,
    ZeroConsolidateError,
)
from ..options import roots_of
from ..run.inputs import Inputs
from .incomplete import Incomplete, read_incomplete
from .losses import in_words, losses

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..archive.raw import CheckpointFiles
    from ..catalog.facts import Catalog
    from ..options import Roots

LAST_COMPLETE = "last-complete"
"""As a tag: the newest one of which every file is there and agrees."""

_MAX_SIBLINGS = 8
"""So many older checkpoints are looked at to name one that is complete."""


def find(src: Roots, tag: str | None) -> CheckpointFiles:
    """The files of the tag, which may be `last-complete`. Raises NotACheckpoint, Disagreement."""
    roots = roots_of(src)
    if not roots:
        raise NotACheckpoint("no checkpoint was given")
    if tag == LAST_COMPLETE:
        newest = newest_complete(roots)
        if newest is None:
            raise NotACheckpoint(f"no tag is complete; looked at {', '.join(_tags(roots)) or 'none'}")
        return gather(roots, newest)
    try:
        return gather(roots, tag)
    except NotACheckpoint as error:
        newest = newest_complete(roots) if tag is None else None
        if newest is not None:
            error.message += f"; the newest complete one is {newest}: --tag {LAST_COMPLETE}"
        raise


def open_catalog(src: Roots, tag: str | None) -> Catalog:
    """The facts of a whole checkpoint.

    Raises what `read` raises. If it is because files cannot be used, the error says what is lost with them, and its
    `losses` say it of every tensor.
    """
    files = find(src, tag)
    try:
        return answered(read(files, load))
    except (UnsafePickle, UnsafePath):
        raise
    except (MissingFiles, DamagedFile, Disagreement) as error:
        _explain(error, files, roots_of(src))
        raise


def open_incomplete(src: Roots, tag: str | None) -> Incomplete:
    """The facts of what is there of a checkpoint, whole or not."""
    left = _incomplete(find(src, tag))
    try:
        return replace(left, catalog=answered(left.catalog))
    except (UnsupportedLayout, WitnessMismatch) as error:
        # Which master is which parameter cannot be said; everything else can.
        return replace(left, catalog=replace(left.catalog, notes=(*left.catalog.notes, str(error))))


def answered(catalog: Catalog) -> Catalog:
    """With the questions answered that only values can answer; only then are they read, and numpy imported."""
    if catalog.missing or not (catalog.unnamed or catalog.strays or catalog.doubts):
        return catalog
    from .unnamed import answer

    with Inputs() as inputs:
        return answer(catalog, inputs)


def newest_complete(roots: Sequence[str]) -> str | None:
    """The last tag, in natural order, that is complete and whose files agree."""
    return next((tag for tag in reversed(_tags(roots)) if _is_complete(roots, tag)), None)


def _tags(roots: Sequence[str]) -> list[str]:
    found: list[str] = []
    for root in roots:
        try:
            found += tags_in(root)
        except ZeroConsolidateError:
            continue
    return natural(list(dict.fromkeys(found)))


def _is_complete(roots: Sequence[str], tag: str | None) -> bool:
    try:
        read(gather(roots, tag), load)
    except ZeroConsolidateError:
        return False
    return True


def _incomplete(files: CheckpointFiles) -> Incomplete:
    readable = LoadReadable()
    return read_incomplete(files, readable, readable.reasons)


def _explain(error: ZeroConsolidateError, files: CheckpointFiles, roots: Sequence[str]) -> None:
    """Add to the error what is lost, unless what is wrong is something else than unusable files."""
    try:
        left = _incomplete(files)
        if not left.catalog.missing:
            return
        error.losses = losses(left.catalog)
    except ZeroConsolidateError:
        return
    named = isinstance(error, MissingFiles) and set(error.files) == set(left.reasons)
    error.message += f"; {in_words(error.losses, left.reasons, named=named)}"
    newest = newest_complete(roots)
    if newest is not None:
        error.message += f"; the newest complete tag is {newest}: --tag {LAST_COMPLETE}"
    else:
        sibling = _complete_sibling(roots[0]) if len(roots) == 1 else None
        error.message += f"; the newest complete checkpoint beside it is {sibling}" if sibling else ""
    error.message += "; --rescue writes what can be had"


def _complete_sibling(root: str) -> str | None:
    """Trainer keeps every save in a `checkpoint-N` of its own: the newest other one that is complete."""
    parent, own = os.path.split(os.path.abspath(root))
    if not re.fullmatch(r"checkpoint-[0-9]+", own):
        return None
    try:
        entries = natural([entry for entry in os.listdir(parent) if re.fullmatch(r"checkpoint-[0-9]+", entry)])
    except OSError:
        return None
    others = [os.path.join(parent, entry) for entry in reversed(entries) if entry != own]
    return next((other for other in others[:_MAX_SIBLINGS] if _is_complete([other], None)), None)
