"""A run directory -> a model of each save, as the saves appear."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ..archive.places import exists, look_anew
from ..errors import BadOption, NotACheckpoint, OutputBusy, OutputFailed, SaveGone, ZeroConsolidateError
from ..options import as_typed, roots_of, takes
from ..options.follow import WatchOptions
from ..options.urls import is_url, refuse_urls
from ..saves.judge import is_optimizer, number_of
from ..saves.listing import list_saves
from ..saves.metadata import examine
from .making import make_model
from .places import checked, is_made, output_of, record_of, refuse_second
from .settling import Settling, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ..options import Path, Roots
    from ..outputs.report import Report
    from ..saves.facts import Listing

_SOON_SECONDS = 1.0
"""While something is being written, it is read again after at most so many seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What became of one save.

    :func:`zeroconsolidate.watch` yields one for each.

    Attributes
    ----------
    name : str
        The save, such as `checkpoint-500`.
    step : int | None
        Its step, if the name says it.
    output : str
        The directory of its model.
    made : bool
        Whether the model was made.
    message : str
        Why it was not; empty if it was.
    report : Report | None
        The report of the conversion.
    removed : tuple[str, ...]
        What was removed for it: older models, and saves whose optimizer files were.

    Examples
    --------
    >>> import shutil, tempfile, zeroconsolidate
    >>> with tempfile.TemporaryDirectory() as run:
    ...     _ = shutil.copytree("tests/fixtures/z3_bf16/checkpoint", f"{run}/checkpoint_2")
    ...     [watched.made for watched in zeroconsolidate.watch(run, idle=0, interval=0)]
    [True]
    """

    name: str
    step: int | None
    output: str
    made: bool
    message: str
    report: Report | None
    removed: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """Return the fields as plain values, ready for JSON.

        Returns
        -------
        dict
            The fields by name, and those within them.
        """
        return asdict(self) | {"report": self.report.to_dict() if self.report else None}


@takes(WatchOptions)
def watch(src: Roots, out: Path | None = None, *, options: WatchOptions) -> Iterator[Watched]:
    """Convert each save of a training run as it appears, until a step is reached or nothing is written any more.

    A save is converted when all ranks have written it. What was converted before, by an earlier call too, is not
    converted again, unless it was saved again. Interrupted conversions are continued.

    Parameters
    ----------
    src : str, os.PathLike, or sequence of these
        The run directory, in which a training saves or will save, or a folder of tags; it may be the URL of one in an
        object store. Several directories are watched as one, for nodes that save to their own disks.
    out : str or os.PathLike, optional
        Where to write the model of each save: a path with `{name}` or `{step}` in it, on this machine. Without it,
        `{run}-models/{name}`; it must be given if the run is in a store.

    Returns
    -------
    Iterator[Watched]
        What became of each save, when that is known.

    Raises
    ------
    BadOption
        If an option is unknown or makes no sense.
    NotACheckpoint
        If `src` does not exist when it ends because nothing is written any more.

    Examples
    --------
    >>> import shutil, tempfile, zeroconsolidate
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = shutil.copytree("tests/fixtures/z3_bf16/checkpoint", f"{folder}/run/checkpoint_2")
    ...     for watched in zeroconsolidate.watch(f"{folder}/run", idle=0, interval=0):
    ...         print(watched.name, watched.made, watched.report.step)
    checkpoint_2 True 2
    """
    pattern = checked(None if out is None else os.fspath(out))
    roots = roots_of(src)
    if any(map(is_url, roots)):
        _refuse_in_store(pattern, options)
    refuse_urls([pattern], "the models of a run that is watched", "convert single saves to a URL")
    return Watch(roots, pattern, options).events()


def _refuse_in_store(pattern: str, options: WatchOptions) -> None:
    """What cannot be done where the run is in a store."""
    if "{run}" in pattern:
        raise BadOption(
            "the models of a run that is watched must be on this machine",
            found="the run is in an object store",
            remedy="name a directory for them, such as 'models/{name}'",
        )
    if options.kept_saves is not None:
        raise BadOption(
            "--prune removes files of this machine only", remedy="remove objects with the client of the store"
        )


class Watch:
    """The state of a watcher. `now` and `pause` are those of the monotonic clock."""

    def __init__(
        self,
        roots: Sequence[str],
        pattern: str,
        options: WatchOptions,
        *,
        now: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._roots, self._pattern, self._options = list(roots), pattern, options
        self._now, self._pause = now, pause
        self._settling = Settling(examine)
        self._over: dict[str, tuple[object, ...]] = {}
        """Saves with which nothing more is done as long as they do not change."""
        self._said: dict[str, str] = {}
        """The last message about each save, which is not repeated."""
        self._elsewhere: set[str] = set()
        """Saves that another process was converting when they were last looked at."""
        self._is_last = False
        self._names: dict[str, str] = {}
        """Directory of a model -> the save that it is of."""

    def events(self) -> Iterator[Watched]:
        """What became of each save, until it ends."""
        options = self._options
        active = self._now()
        before: dict[str, tuple[object, ...]] | None = None
        while True:
            listings = self._listings()
            signatures = {listing.name: listing.signature for listing in listings}
            if signatures != before:
                active, before = self._now(), signatures
            unsettled = False
            for listing in listings:
                if self._over.get(listing.name) == listing.signature:
                    continue
                state = self._settling.state(listing, self._now(), is_newest=listing is listings[-1])
                unsettled |= state is State.CHANGING
                if state is State.READY:
                    event = self._made(listing)
                    active = self._now()
                    if event is not None:
                        yield event
            if self._is_last:
                return
            idle = self._now() - active
            if options.idle_seconds is not None and not unsettled and idle >= options.idle_seconds:
                yield from self._left(listings)
                self._refuse_nowhere()
                return
            self._pause(min(options.interval_seconds, _SOON_SECONDS) if unsettled else options.interval_seconds)

    def _refuse_nowhere(self) -> None:
        """A name that was mistyped must not look like a training that is over."""
        if not any(map(exists, self._roots)):
            raise NotACheckpoint(
                "there is no such directory", expected="the directory of a run", address=(self._roots[0],)
            )

    def _listings(self) -> list[Listing]:
        look_anew(self._roots)
        try:
            found = list_saves(self._roots).listings
        except NotACheckpoint:
            return []  # the training has not begun
        kept = self._options.kept_models
        ordered = sorted(found, key=lambda listing: (_number(listing), listing.changed_ns))
        # Of more saves than models are kept, the older ones would be converted only to be removed.
        return ordered if kept is None else ordered[-max(kept, 1) :]

    def _made(self, listing: Listing) -> Watched | None:
        """Make the model of a save; None if it was made before, or another process is at it."""
        output = output_of(self._pattern, listing)
        first = self._names.setdefault(output, listing.name)
        if first == listing.name and is_made(output, listing):
            self._is_over(listing)
            return None
        try:
            refuse_second(output, listing.name, first)
            made = make_model(listing, output, self._options)
        except OutputBusy:
            self._elsewhere.add(listing.name)
            return None  # looked at again: then it is made, or the other one has ended
        except SaveGone as error:
            self._is_over(listing)
            return self._failed(listing, output, error)
        except OutputFailed as error:
            return self._failed(listing, output, error)  # tried again: there may be room later
        except ZeroConsolidateError as error:
            self._is_over(listing)
            return self._failed(listing, output, error)
        self._is_over(listing)
        pruned = made.pruning.saves if made.pruning else ()
        return Watched(
            name=listing.name,
            step=number_of(listing.name),
            output=output,
            made=True,
            message="",
            report=made.report,
            removed=(*made.removed, *(save.path for save in pruned if save.removes != "nothing")),
        )

    def _is_over(self, listing: Listing) -> None:
        self._over[listing.name] = listing.signature
        last = self._options.last_step
        self._is_last |= last is not None and _number(listing) >= last

    def _failed(self, listing: Listing, output: str, error: ZeroConsolidateError) -> Watched | None:
        as_typed(error)  # what a watcher says is for a terminal or a log
        if self._said.get(listing.name) == error.message:
            return None
        self._said[listing.name] = error.message
        return _unmade(listing, output, str(error))

    def _left(self, listings: Sequence[Listing]) -> Iterator[Watched]:
        """The saves that never became complete."""
        for listing in listings:
            is_told = listing.name in self._said or listing.name in self._elsewhere
            if self._over.get(listing.name) != listing.signature and not is_told:
                if record_of(output_of(self._pattern, listing)).made and not any(map(is_optimizer, listing.states)):
                    continue  # pruned, after its model was made
                missing = self._settling.missing(listing.name)
                lacks = "; ".join(f"{name}: {reason}" for name, reason in list(missing.items())[:2])
                message = f"it is not complete{f': {lacks}' if lacks else ''}"
                yield _unmade(listing, output_of(self._pattern, listing), message)


def _unmade(listing: Listing, output: str, message: str) -> Watched:
    return Watched(
        name=listing.name,
        step=number_of(listing.name),
        output=output,
        made=False,
        message=message,
        report=None,
        removed=(),
    )


def _number(listing: Listing) -> int:
    number = number_of(listing.name)
    return -1 if number is None else number
