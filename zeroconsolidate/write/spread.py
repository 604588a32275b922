"""The staging folder of a conversion whose stretches are made by other processes: what they find there, what is done.

OUTPUT/.zeroconsolidate/
    journal                  has a record of every stretch that a worker has made and synced
    files/                   the files of weights, at their full size
    tasks/lock               shared by a worker while it opens plan and file; whoever starts over has it alone
    tasks/<SHA-256>          the plan, for all workers
"""

from __future__ import annotations

import os
import shutil
import time
from typing import TYPE_CHECKING, Any

from ..errors import OutputBusy
from .lock import Lock
from .refusals import TASKS
from .system import remove, sync_directory, write_all

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..plan.stretches import Stretch
    from .journal import Journal

PATIENCE_SECONDS = 10.0
"""How long a worker may take to open two files."""


def keep_plan(folder: str, name: str, content: bytes) -> None:
    """Put the plan where workers find it."""
    tasks = os.path.join(folder, TASKS)
    os.makedirs(tasks, exist_ok=True)
    path = os.path.join(tasks, name)
    aside = f"{path}.new"
    remove(aside)
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        write_all(fd, content)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(aside, path)
    sync_directory(tasks)


def drop_plan(folder: str) -> None:
    """Take the plan away: a task that comes late finds nothing to do. Raises OutputBusy if workers hold the folder."""
    tasks = os.path.join(folder, TASKS)
    if not os.path.isdir(tasks):
        return
    began = time.monotonic()
    while True:
        try:
            lock = Lock(os.path.join(tasks, "lock"))
            break
        except OutputBusy:
            if time.monotonic() - began > PATIENCE_SECONDS:
                raise
            time.sleep(0.05)
    try:
        shutil.rmtree(tasks, ignore_errors=True)
    finally:
        lock.release()


def made_before(journal: Journal, path: str, name: str, size_bytes: int) -> dict[tuple[int, int], dict[str, Any]]:
    """What of a file is on disk: (start, stop) -> facts. The file is made, at its full size, if it is not there."""
    progress = journal.progress
    found = dict(progress.stretches.get(name, {}))
    upto = progress.upto.get(name, 0)
    if upto:
        found[0, upto] = progress.facts[name]
    os.makedirs(os.path.dirname(path), exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        least = max((stop for _, stop in found), default=0)
        there = os.fstat(fd).st_size
        # Someone may have taken the staged file away, or cut it: also one that was complete.
        if there < least or name in progress.done or (name in progress.stretches and there != size_bytes):
            found = {}
        if not found:
            forget(journal, name)
        os.ftruncate(fd, size_bytes)
        os.fsync(fd)
    finally:
        os.close(fd)
    sync_directory(os.path.dirname(path))
    return found


def forget(journal: Journal, name: str) -> None:
    """Whatever the journal says of a file no longer holds: it is made afresh."""
    progress = journal.progress
    if any(name in known for known in (progress.stretches, progress.upto, progress.done)):
        journal.append({"file": name, "afresh": True})


def left_of(stretch: Stretch, before: Mapping[tuple[int, int], object]) -> bool:
    """Whether a stretch has bytes that are in none of those that were made before."""
    return not any(start <= stretch.start and stretch.stop <= stop for start, stop in before)
