"""A directory -> its saves, each judged: from names and sizes, and for the newest from the metadata in their files."""

from __future__ import annotations

import os
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

from ..archive.json_file import read_json
from ..errors import NotACheckpoint, StoreFailed, ZeroConsolidateError
from ..options import roots_of
from ..options.urls import normal
from . import judge
from .converted import converted_by
from .facts import RunInfo, SaveInfo, Writer
from .listing import list_saves
from .metadata import examine
from .resuming import resume_line, resume_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ..options import Roots
    from .facts import Examined, Listing
    from .listing import Found

MAX_EXAMINED_FILES = 512
"""Of so many files, those of the newest saves, the metadata is read; a thousand take about a second."""


def read_run(
    src: Roots,
    found: Found | None = None,
    models: Sequence[str] = (),
    read: Callable[[Listing], Examined] | None = None,
    files_read: Callable[[int, int], None] | None = None,
) -> RunInfo:
    """What is known of every save in a run directory, a folder of tags, or a checkpoint.

    `found`: what `list_saves` found there, if it was called before. `models`: directories to look for converted
    models in, beside the usual ones. `read`: reads the metadata of one save; by default all of it, and
    `files_read(n, total)` is called as its files are read. Raises NotACheckpoint if there is no save.
    """
    roots = roots_of(src)
    read = read or partial(examine, files_read=files_read)
    found = found or list_saves(roots)
    if not found.listings:
        raise NotACheckpoint("there is no save of DeepSpeed in this directory", address=tuple(roots[:1]))
    ordered = sorted(found.listings, key=lambda listing: (_rank(listing), listing.changed_ns))
    facts = _examined(ordered, read)
    # A save whose name has no number has its place by its step.
    ordered.sort(key=lambda listing: (_place(listing, facts.get(listing.name)), listing.changed_ns))
    beside = Counter(name for listing in ordered for name in listing.beside)
    usual = {name for name, count in beside.items() if 2 * count > len(ordered)}
    converted = converted_by(roots[0], models)
    names = {listing.name for listing in ordered}
    saves = tuple(
        save_of(listing, facts.get(listing.name), usual, _of_this(converted, listing.name, names))
        for listing in ordered
    )
    latest = found.latest if any(listing.is_tag for listing in ordered) else None
    return RunInfo(
        root=normal(roots[0]),
        saves=saves,
        latest=latest,
        best=_best(ordered, facts),
        resume=resume_of(saves, latest),
    )


def save_of(
    listing: Listing, examined: Examined | None, usual: set[str], converted: Mapping[tuple[str, int | None], list[str]]
) -> SaveInfo:
    """What is known of one save. `usual`: what most saves of the run have beside the tag."""
    writer = judge.writer_of(listing, examined)
    if examined is None or not listing.states:
        missing, complete = judge.missing_by_name(listing), not judge.missing_by_name(listing)
    else:
        missing, complete = dict(examined.missing), examined.problem is None and not examined.missing
    needed, exact = judge.lacking(listing, writer, examined, usual)
    if examined is not None and examined.problem and not missing:
        missing = {listing.tag or listing.name: examined.problem}
    model_bytes, optimizer_bytes = judge.sizes(listing)
    step = judge.number_of(listing.name) if writer is not Writer.ACCELERATE else None
    if examined is not None and (step is None or writer is Writer.LIGHTNING):
        step = examined.step if examined.step is not None else step
    # The manifest of a model has the step that DeepSpeed counts.
    stated = examined.step if examined and examined.step is not None else judge.number_of(listing.name)
    path = listing.paths[0]
    return SaveInfo(
        name=listing.name,
        path=path,
        paths=listing.paths,
        tag=listing.tag,
        step=step,
        saved_at=listing.changed_ns / 1e9,
        saved_by=writer.value,
        ranks=(examined.ranks if examined else None) or judge.ranks_of(listing) or None,
        checked="names" if examined is None else "metadata",
        complete=complete,
        missing=missing,
        lacks=(*needed, *exact),
        resumable=complete and not needed,
        whole=complete and not needed and not exact,
        has_weights=complete or judge.has_hub_weights(listing),
        model_bytes=model_bytes,
        optimizer_bytes=optimizer_bytes,
        converted=tuple(converted.get((listing.tag or listing.name, stated), ())),
        resume_line=resume_line(writer, listing),
    )


def _of_this(
    converted: Mapping[tuple[str, int | None], list[str]], name: str, names: set[str]
) -> dict[tuple[str, int | None], list[str]]:
    """Models without those that are called like another save: two saves of a run may be of the same step."""
    others = names - {name}
    return {made: [m for m in models if os.path.basename(m) not in others] for made, models in converted.items()}


def _examined(ordered: Sequence[Listing], read: Callable[[Listing], Examined]) -> dict[str, Examined]:
    """The metadata of the newest saves, back to one that is complete at least; and of those of which names do not tell
    enough: without a number, or without optimizer files, which only stage 0 may lack."""
    facts: dict[str, Examined] = {}
    files = 0
    has_complete = False
    for listing in reversed(ordered):
        files += len(listing.states)
        is_plain = judge.number_of(listing.name) is not None and any(map(judge.is_optimizer, listing.states))
        if listing.states and (files <= MAX_EXAMINED_FILES or not has_complete or not is_plain):
            facts[listing.name] = read(listing)
            has_complete |= not facts[listing.name].missing and facts[listing.name].problem is None
    return facts


def _rank(listing: Listing) -> int:
    number = judge.number_of(listing.name)
    return -1 if number is None else number


def _place(listing: Listing, examined: Examined | None) -> int:
    number = judge.number_of(listing.name)
    if number is None and examined is not None and examined.step is not None:
        return examined.step
    return -1 if number is None else number


def _best(ordered: Sequence[Listing], facts: Mapping[str, Examined]) -> str | None:
    """The name of the best save, as the newest save that says so knows it."""
    names = {listing.name for listing in ordered}
    for listing in reversed(ordered):
        examined = facts.get(listing.name)
        path = (examined.best if examined else None) or _trainers_best(listing)
        if path:
            name = os.path.basename(os.path.normpath(path))
            return name if name in names else None
    return None


def _trainers_best(listing: Listing) -> str | None:
    if "trainer_state.json" not in listing.beside:
        return None
    for folder in listing.paths:
        try:
            best = read_json(os.path.join(folder, "trainer_state.json")).get("best_model_checkpoint")
        except StoreFailed:
            raise
        except ZeroConsolidateError:
            continue
        return best if isinstance(best, str) else None
    return None
