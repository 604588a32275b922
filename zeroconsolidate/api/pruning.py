"""A run directory -> what resuming no longer needs is removed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..archive.manifest_file import read_manifest
from ..archive.printable import printable
from ..audit.findings import NOT_WHOLE
from ..audit.verify import verify
from ..errors import ZeroConsolidateError
from ..integrations.records import record
from ..options import PruneOptions, roots_of, takes
from ..options.urls import refuse_urls
from ..saves.listing import list_again, list_saves
from ..saves.pruning import PrunedSave, Pruning, plan, stays
from ..saves.removal import finish_removals, remove_optimizer, remove_whole
from ..saves.run import read_run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..options import Roots
    from ..saves.facts import Listing, SaveInfo


@takes(PruneOptions)
def prune(src: Roots, options: PruneOptions) -> Pruning:
    """Free disk space in a run directory: remove what resuming no longer needs, or say what would be removed.

    Nothing is removed without `yes`. Of a save that was converted, the optimizer's files are removed once its model
    has been compared with it, byte for byte. Never touched are the newest saves to resume from, the newest complete
    one, the best one, the one that `latest` names, and any that was written to later than these.

    Parameters
    ----------
    src : str, os.PathLike, or sequence of these
        The run directory, with `checkpoint-500` and so on in it, or a folder of tags. Several directories are read as
        one, for nodes that saved to their own disks.

    Returns
    -------
    Pruning
        What was removed of each save, or would be, and why others stay.

    Raises
    ------
    NotACheckpoint
        If there is no save at `src`.
    OutputFailed
        If something cannot be removed.
    BadOption
        If an option is unknown or makes no sense.

    Notes
    -----
    A training that runs meanwhile is not disturbed, unless it is started from an old save in the same moment. A removal
    that is cut off leaves no save that passes for a whole one; the same call goes on.

    Examples
    --------
    >>> import shutil, tempfile, zeroconsolidate
    >>> with tempfile.TemporaryDirectory() as run:
    ...     for step in (2, 4):
    ...         _ = shutil.copytree("tests/fixtures/z3_bf16/checkpoint", f"{run}/checkpoint_{step}")
    ...     pruning = zeroconsolidate.prune(run, keep=1)
    >>> pruning.done, [(save.name, save.removes) for save in pruning.saves]
    (False, [('checkpoint_2', 'nothing'), ('checkpoint_4', 'nothing')])
    """
    roots = roots_of(src)
    refuse_urls(roots, "a run directory that is pruned", "remove objects with the client of the store")
    options.doing("reading metadata")
    found = list_saves(roots)
    run = read_run(roots, found, models=roots_of(options.models), files_read=options.files_read)
    # Of several models of a save, one that has its weights is compared with it.
    saves = [replace(save, converted=tuple(sorted(save.converted, key=_is_quantized))) for save in run.saves]
    run = replace(run, saves=tuple(saves))
    by_name = {listing.name: listing for listing in found.listings}
    planned = plan(
        run,
        [by_name[save.name] for save in run.saves],
        keep=options.kept_saves,
        remove=options.remove,
        unconverted=options.unconverted,
    )
    planned = tuple(map(_within_reason, planned, run.saves))
    if not options.yes:
        return Pruning(root=run.root, done=False, saves=planned, failed=())
    for root in roots:
        finish_removals(root)
    by_save: Mapping[str, SaveInfo] = {save.name: save for save in run.saves}
    done = tuple(
        each if each.removes == "nothing" else _removed(each, by_name[each.name], by_save[each.name], options)
        for each in planned
    )
    failed = [after.name for before, after in zip(planned, done, strict=True) if before.removes != after.removes]
    removed = [f"{each.name}: removed {each.removes}; {each.reason}" for each in done if each.removes != "nothing"]
    record("info", map(printable, removed), of=printable(run.root))
    kept = [f"{each.name} stays: {each.reason}" for each in done if each.name in failed]
    record("warning", map(printable, kept), of=printable(run.root))
    return Pruning(root=run.root, done=True, saves=done, failed=tuple(failed))


def _removed(planned: PrunedSave, listing: Listing, save: SaveInfo, options: PruneOptions) -> PrunedSave:
    """Verify the model of a save, and remove what is planned; or say why not."""
    if planned.model is not None:
        wrong = _unverified(planned.model, listing, options)
        if wrong is not None:
            return stays(save, f"{planned.model} could not be verified against it: {wrong}")
    now = list_again(listing)
    if now is None or now.signature != listing.signature:
        return stays(save, "something has written to it meanwhile")
    if planned.removes == "optimizer":
        remove_optimizer(listing, planned.files)
    else:
        remove_whole(listing)
    return replace(planned, reason=planned.reason.replace("is verified", "was verified"))


def _within_reason(planned: PrunedSave, save: SaveInfo) -> PrunedSave:
    """A model in 8 bits stands for no weights: they could not be had again. Of one that keeps less than the optimizer's
    files do, say so."""
    if planned.model is not None and _is_quantized(planned.model):
        return stays(save, f"{planned.model} was written with --quantize, which does not keep its weights")
    dtype = _chosen(planned.model).get("dtype", "fp32") if planned.model else "fp32"
    if dtype == "fp32":
        return planned
    return replace(planned, reason=f"{planned.reason}; it is in {dtype}, so the fp32 master weights are lost")


def _is_quantized(model: str) -> bool:
    return bool(_chosen(model).get("quantize"))


def _chosen(model: str) -> Mapping[str, object]:
    """The options that a model was written with."""
    try:
        manifest = read_manifest(model) or {}
    except ZeroConsolidateError:
        return {}
    found: Mapping[str, object] = manifest.get("options", {})
    return found


_PARTIAL = ("include", "exclude", "exclude_frozen", "rescue")
"""Options of a conversion that leaves weights out, or puts others in their place."""


def _unverified(model: str, listing: Listing, options: PruneOptions) -> str | None:
    """What is wrong with a model against its save; None if it has every weight of it, byte for byte."""
    try:
        chosen = _chosen(model)
        partial = [name for name in _PARTIAL if chosen.get(name)]
        if partial:
            return f"it was written with --{partial[0].replace('_', '-')}"
        found = verify(
            model,
            against=listing.paths,
            tag=listing.tag,
            base=options.base,
            progress=options.progress,
            status=options.status,
            files_read=options.files_read,
        )
    except (ZeroConsolidateError, OSError) as error:
        return str(error)
    if found.problems:
        return found.problems[0]
    return next((note for note in found.notes if note.startswith(NOT_WHOLE)), None)
