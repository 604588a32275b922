"""The saves of a run -> what may be removed of each, and what must stay."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from .judge import by_rank, is_a_step, is_optimizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .facts import Listing, RunInfo, SaveInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class PrunedSave:
    """What happens to one save.

    Attributes
    ----------
    name : str
        The save.
    path : str
        Its directory.
    removes : str
        What is removed of it: `optimizer` for the optimizer's files, `checkpoint` for everything, or `nothing`.
    files : tuple[str, ...]
        With `optimizer`, the files, in the order in which they are removed.
    freed_bytes : int
        Their size.
    model : str | None
        The model that it was converted to, and that is verified before anything is removed.
    reason : str
        Why it stays as it is, or what has to hold before anything is removed.

    Examples
    --------
    >>> import shutil, tempfile, zeroconsolidate
    >>> with tempfile.TemporaryDirectory() as run:
    ...     _ = shutil.copytree("tests/fixtures/z3_bf16/checkpoint", f"{run}/checkpoint_2")
    ...     pruning = zeroconsolidate.prune(run, keep=1)
    >>> pruning.saves[0].name, pruning.saves[0].removes
    ('checkpoint_2', 'nothing')
    """

    name: str
    path: str
    removes: str
    files: tuple[str, ...]
    freed_bytes: int
    model: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning:
    """What was removed from a run directory, or would be.

    :func:`zeroconsolidate.prune` returns it. Sizes are bytes.

    Attributes
    ----------
    root : str
        The run directory.
    done : bool
        Whether it was removed; otherwise this only says what would be.
    saves : tuple[PrunedSave, ...]
        What happens to each save, the oldest first.
    failed : tuple[str, ...]
        Saves that were to be removed and stay, because their model could not be verified.
    freed_bytes

    Examples
    --------
    >>> import shutil, tempfile, zeroconsolidate
    >>> with tempfile.TemporaryDirectory() as run:
    ...     _ = shutil.copytree("tests/fixtures/z3_bf16/checkpoint", f"{run}/checkpoint_2")
    ...     pruning = zeroconsolidate.prune(run, keep=1)
    >>> pruning.done, len(pruning.saves)
    (False, 1)
    """

    root: str
    done: bool
    saves: tuple[PrunedSave, ...]
    failed: tuple[str, ...]

    @property
    def freed_bytes(self) -> int:
        """The space that is freed."""
        return sum(save.freed_bytes for save in self.saves)

    def to_dict(self) -> dict[str, object]:
        """Return the fields as plain values, ready for JSON.

        Returns
        -------
        dict
            The fields by name, and those within them.
        """
        return asdict(self) | {"freed_bytes": self.freed_bytes}


def stays(save: SaveInfo, reason: str) -> PrunedSave:
    """Nothing is removed of it."""
    return PrunedSave(
        name=save.name, path=save.path, removes="nothing", files=(), freed_bytes=0, model=None, reason=reason
    )


def plan(
    run: RunInfo,
    listings: Sequence[Listing],
    *,
    keep: int,
    remove: Literal["optimizer", "checkpoint"],
    unconverted: bool,
) -> tuple[PrunedSave, ...]:
    """What may be removed of each save. `listings`: the files of each, in the same order."""
    usable = [save for save in run.saves if save.resumable]
    if not usable:
        return tuple(stays(save, "no save can be resumed from, so all stay") for save in run.saves)
    protected = {
        save.name: "the newest to resume from" if keep == 1 else f"one of the newest {keep} to resume from"
        for save in usable[-keep:]
    }
    if run.last_complete is not None:
        protected.setdefault(run.last_complete.name, "the newest complete one")
    protected |= {name: "the file `latest` names it" for name in (run.latest,) if name and name not in protected}
    protected |= {name: "the best one" for name in (run.best,) if name and name not in protected}
    newest = run.saves.index(usable[-1])
    changed_ns = listings[newest].changed_ns
    decided = []
    for place, (save, listing) in enumerate(zip(run.saves, listings, strict=True)):
        if save.name in protected:
            decided.append(stays(save, protected[save.name]))
        elif not is_a_step(save.name):
            decided.append(stays(save, "its name has no step, so it may be of another training"))
        elif place > newest:
            decided.append(stays(save, "newer than the newest to resume from: it may still be being written"))
        elif listing.changed_ns > changed_ns:
            decided.append(stays(save, "written to later than the newest to resume from: a training may be at it"))
        else:
            decided.append(_removed(save, listing, remove=remove, unconverted=unconverted))
    return tuple(decided)


def _removed(
    save: SaveInfo, listing: Listing, *, remove: Literal["optimizer", "checkpoint"], unconverted: bool
) -> PrunedSave:
    model = save.converted[0] if save.converted else None
    if remove == "optimizer" and not save.optimizer_bytes:
        return stays(save, "it has no optimizer files")
    if model is None and not unconverted:
        return stays(save, "it was not converted, or the model is somewhere else (--models)")
    files: tuple[str, ...] = ()
    freed_bytes = sum(listing.states.values()) + (0 if listing.is_tag else sum(listing.beside.values()))
    if remove == "optimizer":
        # The lowest rank first: what is left of a removal that is cut off then lacks rank 0, and no reader takes it
        # for the save of fewer ranks.
        files = tuple(sorted(filter(is_optimizer, listing.states), key=by_rank))
        freed_bytes = save.optimizer_bytes
    return PrunedSave(
        name=save.name,
        path=save.path,
        removes=remove,
        files=files,
        freed_bytes=freed_bytes,
        model=model,
        reason=f"once {model} is verified against it" if model else "it was not converted: its weights are lost",
    )
