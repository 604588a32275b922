"""Saves to convert in the background, one after the other; the training only asks now and then."""

from __future__ import annotations

import logging
import time
from collections import deque
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import ZeroConsolidateError
from .background import BackgroundRun
from .job import Job, plain_options

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..options.follow import BackgroundOptions

LOGGER = logging.getLogger("zeroconsolidate")


@dataclass(frozen=True, slots=True)
class Ended:
    """A conversion that has ended."""

    step: int
    path: str
    output: str
    error: str
    """Why there is no model; empty if there is one."""
    seconds: float
    """How long it took, waiting included."""
    removed: tuple[str, ...]


class Queue:
    """Conversions, of which one runs at a time. Nothing here waits, but `wait`; nothing raises what a conversion or the
    system does: it is logged."""

    def __init__(self, options: BackgroundOptions, start: Callable[[Job], BackgroundRun] = BackgroundRun) -> None:
        self._options = plain_options(options)
        self._start = start
        self._waiting: deque[tuple[int, Job]] = deque()
        self._running: tuple[int, Job, BackgroundRun, float] | None = None

    def add(self, path: str, output: str, step: int) -> None:
        """Convert the save at `path` when its turn comes."""
        self._waiting.append((step, Job(paths=(path,), output=output, options=self._options)))

    @property
    def is_empty(self) -> bool:
        """Whether nothing runs or waits."""
        return self._running is None and not self._waiting

    def ended(self) -> list[Ended]:
        """The conversions that have ended since the last call; starts the next. Takes microseconds."""
        found = []
        if self._running is not None and self._running[2].done:
            step, job, run, began = self._running
            self._running = None
            found.append(_ended(step, job, run, time.monotonic() - began))
        if self._running is None and self._waiting:
            step, job = self._waiting.popleft()
            try:
                self._running = (step, job, self._start(job), time.monotonic())
            except ZeroConsolidateError as error:
                found.append(Ended(step, job.paths[0], job.output, str(error), 0.0, ()))
        for each in found:
            _log(each)
        return found

    def wait(self) -> list[Ended]:
        """Wait until all conversions have ended."""
        found = self.ended()
        while self._running is not None:
            self._running[2].wait()
            found += self.ended()
        return found

    def cancel(self) -> None:
        """End what runs, and forget what waits."""
        self._waiting.clear()
        if self._running is not None:
            self._running[2].cancel()


def _ended(step: int, job: Job, run: BackgroundRun, seconds: float) -> Ended:
    error = ""
    try:
        run.result()
    except (ZeroConsolidateError, CancelledError) as failed:
        error = str(failed)
    return Ended(step, job.paths[0], job.output, error, seconds, run.removed)


def _log(ended: Ended) -> None:
    if ended.error:
        LOGGER.warning("%s was not converted: %s", ended.path, ended.error)
    else:
        LOGGER.info("%s was converted to %s in %.1f s", ended.path, ended.output, ended.seconds)
