"""The plan of weights -> tasks for the workers of an executor -> files in the staging folder.

An executor is anything with the interface of `concurrent.futures`. A task that is lost with its worker is given out
again. What is done is written down at once: whoever runs the same conversion again, with workers or without, goes on.
"""

from __future__ import annotations

import os
from concurrent.futures import BrokenExecutor, CancelledError
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from .._version import __version__
from ..errors import BadOption, OutputFailed, ZeroConsolidateError
from ..integrations.engines import engine
from ..plan.stretches import pages, stretches
from ..write.spread import left_of
from ..write.staging import grid_of
from .gathered import adopt
from .sharing import means_of
from .tasks import Task, encoded, work
from .weights import workers_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Executor, Future

    from ..options import Writing
    from ..plan.build import ModelPlan
    from ..plan.layout import FilePlan
    from ..plan.stretches import Grid, Stretch
    from ..write.staging import Staging
    from .tasks import Done

LEAST_BYTES = 128 << 20
MOST_BYTES = 512 << 20
"""Bytes of a task: enough that handing it out costs nothing beside it, little enough to be lost."""
TASKS = 128
"""How many there should be, between these limits."""
_AT_ONCE = 4096
"""Tasks handed out at a time, to an executor of any number of workers."""
_ATTEMPTS = 4
"""How often a task is handed out."""


def spread_weights(
    plan: ModelPlan,
    stage: Staging,
    options: Writing,
    executor: str | Executor | Callable[[], Executor],
    *,
    total_bytes: int,
) -> None:
    """Have all weights made that earlier runs have not made; `options.progress(done, total_bytes)` as tasks end.

    `executor`: or the name of an engine, or a function that makes an executor, which is called again if that has lost
    its workers. Raises what the
    workers raise, and OutputFailed if a task is lost again and again.
    """
    means = means_of(plan, options)
    files = plan.all_files
    name, content = encoded(files, means)
    stage.keep_plan(name, content)
    found: dict[str, list[dict[str, Any]]] = {file.name: [] for file in files}
    wanted: dict[str, list[Stretch]] = {}
    for stretch in tasks_of(files, grid_of(stage.output)):
        wanted.setdefault(stretch.file, []).append(stretch)
    left: list[Stretch] = []
    for file in files:
        if stage.facts(file.name) is None:
            before = stage.made_before(file.name, file.size_bytes)
            found[file.name] += before.values()
            left += [stretch for stretch in wanted[file.name] if left_of(stretch, before)]
    threads = 1 if options.workers == "auto" else workers_for(plan, options)
    tasks = [
        Task(
            folder=stage.place,
            plan=name,
            version=__version__,
            stretch=stretch,
            upload=stage.upload_of(stretch.file),
            threads=threads,
            places=replace(options.places, base=os.getcwd()),
        )
        for stretch in left
    ]
    options.doing("copying")
    done_bytes = total_bytes - sum(stretch.nbytes for stretch in left)
    with ExitStack() as stack:
        for done in _Distribution(executor, stack).run(tasks):
            stage.note(done.stretch, done.facts)
            found[done.stretch.file].append(done.facts)
            done_bytes += done.stretch.nbytes
            if options.progress is not None:
                options.progress(done_bytes, total_bytes)
    adopt(files, stage, options, found)


def tasks_of(files: Sequence[FilePlan], grid: Grid = pages) -> list[Stretch]:
    """The stretches of which a task each is made."""
    most_bytes = min(max(sum(file.size_bytes for file in files) // TASKS, LEAST_BYTES), MOST_BYTES)
    return list(stretches(files, most_bytes, grid))


class _Distribution:
    """Hands tasks out until each is done."""

    def __init__(self, executor: str | Executor | Callable[[], Executor], stack: ExitStack) -> None:
        self._make: Any = None if hasattr(executor, "submit") else executor
        if isinstance(executor, str):
            self._make = partial(engine, executor)
        self._running: Any = executor if self._make is None else None
        self._stack = stack
        self._attempts: dict[Stretch, int] = {}
        self._in_vain = 0
        """Executors that broke since the last task that was done."""
        self._ended: SimpleQueue[Future[Done]] = SimpleQueue()
        self._under_way: dict[Future[Done], Task] = {}

    def run(self, tasks: list[Task]) -> Iterator[Done]:
        """What workers answer, in the order in which they end."""
        waiting = tasks[::-1]
        try:
            while waiting or self._under_way:
                while waiting and len(self._under_way) < _AT_ONCE:
                    self._hand_out(waiting.pop())
                future = self._ended.get()
                task = self._under_way.pop(future, None)
                if task is None:
                    continue  # it was lost with its executor
                try:
                    done = future.result()
                except ZeroConsolidateError:
                    raise
                except (ImportError, AttributeError) as error:
                    raise _cannot_work(error) from error
                except CancelledError as error:
                    waiting.append(task)
                    self._refuse_hopeless(task, error)
                except BaseException as error:  # whatever an engine says of a worker that is gone
                    if isinstance(error, KeyboardInterrupt):
                        raise
                    waiting.append(task)
                    if isinstance(error, BrokenExecutor):
                        waiting += self._begin_again(error)
                    self._refuse_hopeless(task, error)
                else:
                    self._in_vain = 0
                    yield done
        finally:
            for future in self._under_way:
                future.cancel()

    def _hand_out(self, task: Task) -> None:
        self._attempts[task.stretch] = self._attempts.get(task.stretch, 0) + 1
        for last in (False, True):
            if self._running is None:
                self._running = self._stack.enter_context(self._make())
            try:
                future = self._running.submit(work, task)
                break
            except RuntimeError as error:  # it is broken, or has been shut down
                if last or self._make is None:
                    raise _lost(error) from error
                self._running = None
        self._under_way[future] = task
        future.add_done_callback(self._ended.put)

    def _begin_again(self, error: BaseException) -> list[Task]:
        """Another executor in place of one that is broken. Returns what was under way."""
        self._in_vain += 1
        if self._make is None or self._in_vain >= _ATTEMPTS:
            raise _lost(error) from error
        self._running = None
        lost = list(self._under_way.values())
        self._under_way.clear()
        for task in lost:
            self._attempts[task.stretch] -= 1  # not it, but a neighbour may have ended the worker
        return lost

    def _refuse_hopeless(self, task: Task, error: BaseException) -> None:
        if self._attempts[task.stretch] >= _ATTEMPTS:
            stretch = task.stretch
            raise OutputFailed(
                f"a task was lost {_ATTEMPTS} times, the last time with {type(error).__name__}: {error}",
                consequence="what is written is kept",
                remedy="run the same command again to continue, with fewer workers if they run out of memory",
                address=(f"{stretch.file} bytes {stretch.start} to {stretch.stop}",),
            ) from error


def _lost(error: BaseException) -> OutputFailed:
    return OutputFailed(
        f"the executor takes no more tasks: {error}",
        consequence="what is written is kept",
        remedy="run the same again to continue; for a function that makes an executor, another one would be made",
    )


def _cannot_work(error: BaseException) -> BadOption:
    return BadOption(
        f"the workers cannot run zeroconsolidate: {type(error).__name__}: {error}",
        remedy="install the same version on all machines, where the workers' Python finds it",
    )
