"""What the callbacks of all trainers have in common: which saves are converted, and to which directories."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Literal

from ..errors import BadOption
from ..saves.facts import Listing
from .places import checked, output_of, refuse_second
from .queue import Queue

if TYPE_CHECKING:
    from ..options.follow import BackgroundOptions
    from .queue import Ended

LOGGER = logging.getLogger("zeroconsolidate")
When = Literal["save", "best", "end"]
WHEN: tuple[When, ...] = ("save", "best", "end")


class Following:
    """The saves of one training. Only the main process has a training to follow."""

    def __init__(self, out: str | None, when: When, options: BackgroundOptions) -> None:
        if when not in WHEN:
            raise BadOption("when must be 'save', 'best' or 'end'", found=repr(when))
        self._pattern, self._when = checked(out), when
        self._queue = Queue(options)
        self._last: tuple[str, int] | None = None
        """The newest save, for `end`."""
        self._added: set[tuple[str, int]] = set()
        self._names: dict[str, str] = {}
        """Directory of a model -> the save that it is of."""

    def saved(self, path: str, step: int, *, is_best: bool) -> None:
        """The trainer has written a save."""
        self._last = (path, step)
        if self._when == "save" or (self._when == "best" and is_best):
            self._add(path, step)

    def poll(self) -> list[Ended]:
        """What has ended; starts what waits."""
        return self._queue.ended()

    def end(self, *, wait: bool) -> list[Ended]:
        """The training has ended. With `wait`, wait for all conversions."""
        if self._when == "end" and self._last is not None:
            self._add(*self._last)
        if wait:
            return self._queue.wait()
        found = self._queue.ended()
        if not self._queue.is_empty:
            LOGGER.info("a conversion goes on in the background")
        return found

    def cancel(self) -> None:
        """End what runs, and forget what waits."""
        self._queue.cancel()

    def _add(self, path: str, step: int) -> None:
        if (path, step) in self._added:
            return
        self._added.add((path, step))
        save = _named(path)
        output = output_of(self._pattern, save)
        try:
            refuse_second(output, save.name, self._names.setdefault(output, save.name))
        except BadOption as error:
            LOGGER.warning("%s was not converted: %s", path, error)
            return
        self._queue.add(path, output, step)


def _named(path: str) -> Listing:
    """A save of which only the directory is known."""
    return Listing(
        name=os.path.basename(os.path.normpath(path)),
        paths=(os.path.normpath(path),),
        tag=None,
        is_tag=False,
        latest=None,
        states={},
        beside={},
        changed_ns=0,
    )
