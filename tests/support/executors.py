"""Executors in place of those whose workers are other processes."""

from __future__ import annotations

import pickle
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from zeroconsolidate.outputs.tasks import Task


class Here(Executor):
    """Runs each task when it is given out, as if by another process; `ill(number, task)` before it."""

    def __init__(self, ill: Callable[[int, Task], None] = lambda number, task: None) -> None:
        self.ill = ill
        self.given: list[Task] = []

    def submit(self, function: Any, task: Task) -> Future[Any]:  # type: ignore[override]
        future: Future[Any] = Future()
        self.given.append(task)
        try:
            self.ill(len(self.given), task)
            future.set_result(pickle.loads(pickle.dumps(function(pickle.loads(pickle.dumps(task))))))
        except BaseException as error:  # noqa: BLE001
            future.set_exception(error)
        return future
