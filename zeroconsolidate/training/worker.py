"""The process of a conversion in the background: `python -m zeroconsolidate.training.worker JOB`, with stdout a file.

It waits until all ranks have written, converts, and answers with a pickled report or error. Log records go to stderr, a
line of JSON for each.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import signal
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO

from ..errors import MissingFiles, SaveGone, ZeroConsolidateError
from ..options.follow import BackgroundOptions
from ..saves.facts import Listing
from ..saves.listing import list_saves
from ..saves.metadata import examine
from .job import Job
from .making import make_model
from .settling import Settling, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from .making import Made

READ_AGAIN_SECONDS = 1.0
"""A save that is being written is read again after so many seconds."""
_FIRST_TO_BE_KILLED = "1000"
"""For the kernel, if memory runs out: it is to end this process, and not the training."""


def main(job: Job, answer: BinaryIO) -> int:
    """Do the job; returns the exit code."""
    _be_modest(BackgroundOptions(**job.options).niceness)
    try:
        made = run(job)
    except ZeroConsolidateError as error:
        pickle.dump(error, answer)
        return 1
    pickle.dump(made, answer)
    return 0


def run(job: Job, *, now: Callable[[], float] = time.monotonic, pause: Callable[[float], None] = time.sleep) -> Made:
    """Wait for the save, and convert it. Raises SaveGone, MissingFiles if not all ranks have written in time, and what
    `make_model` raises."""
    options = BackgroundOptions(**job.options)
    settling, began = Settling(examine), now()
    while True:
        listing, is_newest = _listing(job, options.tag)
        state = settling.state(listing, now(), is_newest=is_newest)
        if state is State.READY:
            return make_model(listing, job.output, options)
        if now() - began >= options.patience:
            missing = settling.missing(listing.name)
            raise MissingFiles(
                f"not all ranks have written {listing.name} after {options.patience:.0f} s: {state.value}",
                files=tuple(missing),
                address=(job.paths[0],),
            )
        pause(READ_AGAIN_SECONDS)


def _listing(job: Job, tag: str | None) -> tuple[Listing, bool]:
    """The save as it is now, and whether there is no newer one in the same folder of tags."""
    if not any(os.path.isdir(path) for path in job.paths):
        raise SaveGone("the save was removed before it could be converted", address=(job.paths[0],))
    found = list_saves([path for path in job.paths if os.path.isdir(path)])
    wanted = tag if tag is not None else found.latest
    named = [listing for listing in found.listings if listing.name == wanted or listing.tag == wanted]
    if named:
        return named[-1], named[-1] is found.listings[-1]
    if found.listings and not found.is_run:
        return found.listings[-1], True
    nothing: dict[str, int] = {}
    listing = Listing(
        name=os.path.basename(job.paths[0]), paths=job.paths, tag=None, is_tag=False, latest=None,
        states=nothing, beside=nothing, changed_ns=0,
    )  # fmt: skip
    return listing, True


def _be_modest(niceness: int) -> None:
    """Take what the training leaves of the processor; the program `ionice` has done so for the disk."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, max(niceness, os.getpriority(os.PRIO_PROCESS, 0)))
    with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write(_FIRST_TO_BE_KILLED)


class _Lines(logging.Handler):
    """Log records as lines of JSON."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one."""
        sys.stderr.write(json.dumps({"level": record.levelno, "message": record.getMessage()}) + "\n")
        sys.stderr.flush()


def _end(number: int, _: object) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    logger = logging.getLogger("zeroconsolidate")
    logger.setLevel(logging.INFO)
    logger.addHandler(_Lines())
    sys.exit(main(Job.from_json(sys.argv[1]), sys.stdout.buffer))
