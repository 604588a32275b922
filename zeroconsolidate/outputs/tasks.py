"""A task: one stretch of an output, made by a process that has nothing but the plan's file and a few words.

A worker may be lost at any moment, and its task given to another, even while it still writes itself: a task writes the
same bytes at the same places however often it runs, and is done only when its bytes are on disk, or in the store. There
the places are parts of an upload, which end where stretches do.
"""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._version import __version__
from ..archive.places import look_anew, size_bytes
from ..archive.regular import read_small
from ..errors import BadOption, OutputFailed, at
from ..options.urls import is_url
from ..plan.fragment import FragmentPlan
from ..run.counts import Counts
from ..run.execute import execute, extents_of
from ..run.inputs import Inputs, side_by_side
from ..run.local_output import LocalOutput
from ..write.lock import Lock
from ..write.part import CLONED
from ..write.portion import opened
from ..write.refusals import TASKS
from ..write.system import system_errors
from .weights import make_fragment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..options.mapped import Mapped
    from ..plan.layout import FilePlan
    from ..plan.stretches import Stretch
    from ..run.clone import Means
    from ..run.storage import Writable

_MOST_PLAN_BYTES = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is sent to a worker. The plan is not in it: that lies beside the staged files, once."""

    folder: str
    """The staging folder."""
    plan: str
    """Name of the plan's file: the SHA-256 of what is in it."""
    version: str
    """Of the package that has cut the plan."""
    stretch: Stretch
    upload: str
    """What the upload that it is sent to is known by; "" for a file on a disk."""
    threads: int
    places: Mapped
    """Where workers see what the plan calls otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What a worker answers when its stretch is on disk."""

    stretch: Stretch
    facts: dict[str, Any]
    """What is to be remembered of it."""
    worker: str
    """Machine and process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """What workers need to know of a plan, once for all tasks."""

    files: dict[str, FilePlan]
    means: Means


def encoded(files: Sequence[FilePlan], means: Means) -> tuple[str, bytes]:
    """The name of a plan's file, and its content."""
    data = pickle.dumps(Spread(files={file.name: file for file in files}, means=means), pickle.HIGHEST_PROTOCOL)
    return hashlib.sha256(data).hexdigest(), data


def work(task: Task) -> Done:
    """Make one stretch of an output, and sync it. Any process of any machine may do it, any number of times.

    Raises BadOption if this is another version of the package, OutputFailed if the conversion is no longer the one
    that the task belongs to or the file cannot be written, DamagedFile if an input cannot be read.
    """
    if task.version != __version__:
        raise BadOption(
            "a worker has another version of zeroconsolidate",
            expected=task.version,
            found=f"{__version__} on {socket.gethostname()}",
            remedy="install the same version on all machines",
        )
    facts = dict[str, Any]()
    (_sent if is_url(task.folder) else _written)(task, facts)
    return Done(stretch=task.stretch, facts=facts, worker=f"{socket.gethostname()}:{os.getpid()}")


def _written(task: Task, facts: dict[str, Any]) -> None:
    """To the staged file, at its place, and synced."""
    stretch, folder = task.stretch, task.places.seen(task.folder)
    with system_errors(folder):
        # Whoever starts the conversion over takes this lock to do so: after that, neither plan nor file is found.
        try:
            lock = Lock(os.path.join(folder, TASKS, "lock"), shared=True)
        except FileNotFoundError:
            raise _gone(task) from None
        try:
            spread = _plan(os.path.join(folder, TASKS, task.plan), task.plan)
            fd = opened(folder, stretch.file, spread.files[stretch.file].size_bytes)
        except FileNotFoundError:
            raise _gone(task) from None
        finally:
            lock.release()
    path = os.path.join(folder, stretch.file)
    try:
        output = LocalOutput(path, fd, start=stretch.start, means=spread.means)
        _make(task, spread, output, facts)
        if output.cloned_bytes:
            facts[CLONED] = output.cloned_bytes
        with system_errors(path):
            os.fsync(fd)
            output.synced(stretch.stop)
    finally:
        os.close(fd)


def _sent(task: Task, facts: dict[str, Any]) -> None:
    """To a store, as parts of the upload. Of a conversion that was thrown away there is no upload any more."""
    from ..integrations.object_uploads import uploads_to
    from ..write.uploads import Sent, room_for

    stretch, uploads = task.stretch, uploads_to(task.folder)
    try:
        spread = _plan(f"{task.folder}/{TASKS}/{task.plan}", task.plan)
    except FileNotFoundError:
        raise _gone(task) from None
    url = f"{task.folder.rpartition('/')[0]}/{stretch.file}"
    if uploads.parts(url, task.upload) is None:
        raise _gone(task)

    def send(number: int, data: bytearray) -> str:
        return uploads.part(url, task.upload, number, data)

    size_bytes = spread.files[stretch.file].size_bytes
    with ThreadPoolExecutor(uploads.in_flight, thread_name_prefix="zeroconsolidate-upload") as pool:
        output = Sent(
            send,
            pool,
            size_bytes=size_bytes,
            begin=stretch.start,
            start=stretch.start,
            stop=stretch.stop,
            room=room_for(uploads, [size_bytes]),
            kept=False,
        )
        try:
            _make(task, spread, output, facts)
            output.finish()
        except BaseException:
            output.drain()
            raise


def _make(task: Task, spread: Spread, output: Writable, facts: dict[str, Any]) -> None:
    stretch, file = task.stretch, spread.files[task.stretch.file]
    counts = Counts.kept_in(facts)
    with at(stretch.file), _inputs(task, spread) as inputs, side_by_side(inputs, task.threads) as several:
        if isinstance(file, FragmentPlan):
            make_fragment(file, inputs, output, stretch.start, counts, _ignore)
            return
        with inputs.files.expecting(extents_of(file, stretch.start, stretch.stop)):
            execute(
                file,
                inputs,
                output,
                start=stretch.start,
                stop=stretch.stop,
                counts=counts,
                reached=_ignore,
                others=several[1:],
            )


def _inputs(task: Task, spread: Spread) -> Inputs:
    return Inputs(places=task.places, drop_cache=spread.means.drop_cache)


def _ignore(_: int) -> None:
    pass


_TURN = threading.Lock()


def _plan(path: str, digest: str) -> Spread:
    with _TURN:  # of several threads, one reads it
        if is_url(path):
            look_anew([path])
        size_bytes(path)  # of a conversion that has been thrown away, a plan in memory does not count
        return _read(path, digest)


@functools.lru_cache(maxsize=2)
def _read(path: str, digest: str) -> Spread:
    data = read_small(path, _MOST_PLAN_BYTES)
    if hashlib.sha256(data).hexdigest() != digest:
        raise OutputFailed("the plan is not the one that the task belongs to", address=(path,))
    # Safe: these are the bytes whose digest came with the task.
    spread: Spread = pickle.loads(data)
    return spread


def _gone(task: Task) -> OutputFailed:
    return OutputFailed(
        "there is no conversion that this task belongs to",
        consequence="either it has ended, or this machine does not see the output",
        address=(f"{task.folder if is_url(task.folder) else task.places.seen(task.folder)} on {socket.gethostname()}",),
    )
