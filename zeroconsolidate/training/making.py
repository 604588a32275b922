"""A save that all ranks have written -> its model, verified, and what is removed for it."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..api.converting import consolidate
from ..api.pruning import prune
from ..archive.model_files import MANIFEST_NAME
from ..audit.verify import verify
from ..errors import OutputExists, OutputFailed, SaveGone, WitnessMismatch, ZeroConsolidateError
from ..saves.listing import list_again
from ..write.lock import Lock
from ..write.refusals import STAGING
from .places import forget_old, note, record_of, run_of, signature_of

if TYPE_CHECKING:
    from ..options.follow import FollowOptions
    from ..outputs.report import Report
    from ..saves.facts import Listing
    from ..saves.pruning import Pruning


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """The model of a save, and what was removed for it."""

    report: Report
    verified: bool
    """Whether it was compared with the save."""
    removed: tuple[str, ...]
    """Older models that were removed."""
    pruning: Pruning | None
    """What was removed of older saves."""


def make_model(listing: Listing, output: str, options: FollowOptions) -> Made:
    """Convert a save. An interrupted conversion of the same save is continued, one of an earlier save of the same name
    is thrown away.

    Raises SaveGone if the save was removed meanwhile; nothing of its model is left then. Raises what `consolidate`
    raises, and WitnessMismatch if the model is not what the save says.
    """
    signature, record = signature_of(listing), record_of(output)
    is_ours = record.begun is not None or record.made is not None
    note(output, begun=signature)
    try:
        report = consolidate(
            listing.paths,
            output,
            tag=listing.tag,
            # What we made of an earlier save of this name is out of date.
            overwrite=options.overwrite or (is_ours and os.path.lexists(os.path.join(output, MANIFEST_NAME))),
            restart=record.begun not in (None, signature),
            **options.of_conversion(),
        )
        if options.verify:
            _verify(listing, output, options)
    except ZeroConsolidateError as error:
        now = list_again(listing)
        if now is None or not now.states:
            _clear(output)
            raise SaveGone(
                f"{listing.name} was removed before its model was made",
                remedy="keep more saves (save_total_limit, save_top_k)",
                address=(listing.paths[0],),
            ) from error
        raise
    note(output, made=signature)
    removed = forget_old(output, options.kept_models) if options.kept_models is not None else []
    return Made(
        report=report, verified=options.verify, removed=tuple(removed), pruning=_prune(listing, output, options)
    )


def _verify(listing: Listing, output: str, options: FollowOptions) -> None:
    found = verify(output, against=listing.paths, tag=listing.tag, base=options.base, status=options.status)
    if found.problems:
        raise WitnessMismatch("the model is not what its checkpoint says", found=found.problems[0], address=(output,))


def _prune(listing: Listing, output: str, options: FollowOptions) -> Pruning | None:
    if options.kept_saves is None:
        return None
    models = os.path.dirname(output) or "."
    return prune(run_of(listing), keep=options.kept_saves, models=models, base=options.base, yes=True)


def _clear(output: str) -> None:
    """Take away what is staged of a model that can never be finished, unless another process is at it."""
    staging = os.path.join(output, STAGING)
    with suppress(OSError, OutputExists, OutputFailed):
        lock = Lock(os.path.join(staging, "lock"))
        try:
            shutil.rmtree(staging, ignore_errors=True)
            os.rmdir(output)  # only if nothing else is in it
        finally:
            lock.release()
