"""Paths and a tag -> a catalog, or an error that says what is lost and what can be done."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..archive.discover import natural, refuse_several_models, tags_in
from ..archive.gather import gather
from ..archive.load import Counted, LoadReadable, load
from ..catalog.agree import incomplete_ranks
from ..catalog.read import read
from ..errors import (
    DamagedFile,
    Disagreement,
    MissingFiles,
    NotACheckpoint,
    StoreFailed,
    UnsafePath,
    UnsafePickle,
    UnsupportedLayout,
    WitnessMismatch,
    ZeroConsolidateError,
)
from ..options import roots_of
from ..options.urls import real
from ..run.inputs import Inputs
from .resume import LAST_COMPLETE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..archive.raw import CheckpointFiles
    from ..catalog.facts import Catalog
    from ..options import Roots
    from .incomplete import Incomplete
    from .remedies import Verb

    FilesRead = Callable[[int, int], None] | None


def find(src: Roots, tag: str | None) -> CheckpointFiles:
    """The files of the tag, which may be `last-complete`. Raises NotACheckpoint, Disagreement."""
    roots = roots_of(src)
    if not roots:
        raise NotACheckpoint("no checkpoint was given")
    if tag == LAST_COMPLETE:
        refuse_several_models(_tags(roots))
        newest = newest_complete(roots)
        if newest is not None:
            return gather(roots, newest)
        tags = _tags(roots)
        if not tags and _is_complete(roots, None):
            return gather(roots)  # a tag's own folder
        if not tags:
            gather(roots)  # says what is there instead
        raise NotACheckpoint(
            "no tag is complete",
            consequence=f"tried {', '.join(tags) or 'the only one there is'}",
            remedy=_alternatives(roots[0], roots),
            address=(roots[0],),
        )
    try:
        return gather(roots, tag)
    except NotACheckpoint as error:
        from .remedies import of_a_tag

        if tag is None:
            error.remedies += of_a_tag(newest_complete(roots))
        raise


def open_catalog(src: Roots, tag: str | None, *, files_read: FilesRead = None) -> Catalog:
    """The facts of a whole checkpoint. Raises what `find` and `open_files` raise."""
    return open_files(find(src, tag), src, files_read=files_read)


def open_files(
    files: CheckpointFiles,
    src: Roots,
    *,
    before: Callable[[Catalog], None] = lambda _: None,
    verb: Verb = "convert",
    files_read: FilesRead = None,
) -> Catalog:
    """The facts of a whole checkpoint, whose files have been found in `src`. `before` is called with the facts that
    metadata gives, before any value is read. `verb`: the command that errors suggest. `files_read(n, total)` is called
    as files are read.

    Raises what `read` raises. If files cannot be used, the error says what is lost with them, and its `losses` list it
    for every tensor.
    """
    try:
        catalog = read(files, Counted(load, files_read))
        before(catalog)
        return answered(catalog)
    except (UnsafePickle, UnsafePath):
        raise
    except (MissingFiles, DamagedFile, Disagreement, NotACheckpoint) as error:
        _explain(error, files, roots_of(src), verb)
        raise


def open_incomplete(src: Roots, tag: str | None, *, files_read: FilesRead = None) -> Incomplete:
    """The facts of a checkpoint, whole or not, from the files that are there."""
    return open_files_incomplete(find(src, tag), files_read=files_read)


def open_files_incomplete(files: CheckpointFiles, *, files_read: FilesRead = None) -> Incomplete:
    """The same, of files that have been found. `files_read(n, total)` is called as files are read."""
    left = _incomplete(files, files_read)
    try:
        return replace(left, catalog=answered(left.catalog))
    except (UnsupportedLayout, WitnessMismatch) as error:
        # Which master is which parameter cannot be said; everything else can.
        return replace(left, catalog=replace(left.catalog, notes=(*left.catalog.notes, str(error))))


def answered(catalog: Catalog) -> Catalog:
    """The catalog with those questions answered that only values can answer. Without such questions no value is read,
    and numpy is not imported."""
    if catalog.missing or not (catalog.unnamed or catalog.maybe_ties or catalog.doubts):
        return catalog
    from .unnamed import answer

    with Inputs(known=catalog.looks) as inputs:
        return answer(catalog, inputs)


def newest_complete(roots: Sequence[str]) -> str | None:
    """The last tag, in natural order, that is complete and whose files agree."""
    return next((tag for tag in reversed(_tags(roots)) if _is_complete(roots, tag)), None)


def _tags(roots: Sequence[str]) -> list[str]:
    found: list[str] = []
    for root in roots:
        try:
            found += tags_in(root)
        except StoreFailed:
            raise
        except ZeroConsolidateError:
            continue
    return natural(list(dict.fromkeys(found)))


def _is_complete(roots: Sequence[str], tag: str | None) -> bool:
    try:
        read(gather(roots, tag), load)
    except StoreFailed:
        raise
    except ZeroConsolidateError:
        return False
    return True


def _incomplete(files: CheckpointFiles, files_read: FilesRead = None) -> Incomplete:
    from .incomplete import read_incomplete

    readable = LoadReadable()
    return read_incomplete(files, Counted(readable, files_read), readable.reasons)


def _explain(error: ZeroConsolidateError, files: CheckpointFiles, roots: Sequence[str], verb: Verb) -> None:
    """Say in the error what is lost and what can be done, unless something else than unusable files is wrong."""
    from .losses import in_words, losses  # what only an error needs costs a conversion nothing
    from .remedies import of_a_rescue, of_a_universal_rescue

    alternatives = _alternatives(files.root, roots, verb)
    try:
        left = _incomplete(files)
        if not left.catalog.missing:
            return
        error.losses = losses(left.catalog)
    except StoreFailed:
        raise
    except ZeroConsolidateError:
        error.remedies += alternatives
        return
    ranks = incomplete_ranks(left.reasons, left.catalog.origin.world_size)
    cost = in_words(error.losses)
    if isinstance(error, Disagreement):
        # What differs is the evidence that a file is of another save.
        error.consequence = f"{ranks}; {cost}"
    else:
        error.message, error.expected, error.found, error.address = ranks, None, None, (files.directory,)
        error.consequence = cost
    error.files = tuple(left.reasons)
    if verb == "universal":
        rescues = of_a_universal_rescue(left.catalog)
    else:
        rescues = of_a_rescue(left.catalog, error.losses)
        error.consequence += "" if rescues else "; no parameter can be rescued"
    error.remedies = (*alternatives, *rescues)


def _alternatives(root: str, roots: Sequence[str], verb: Verb = "convert") -> tuple[str, ...]:
    """Another save that is complete: a tag in the same directory, or else a directory beside it."""
    from .remedies import of_a_sibling, of_a_tag

    newest = of_a_tag(newest_complete(roots))
    if newest or len(set(roots)) > 1:
        return newest
    home = roots[0] if real(root) == real(roots[0]) else root
    return of_a_sibling(home, lambda sibling: _is_complete([sibling], None), verb)
