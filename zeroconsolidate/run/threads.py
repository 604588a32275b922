"""Threads that work side by side on a file, and what they have made in order.

    tasks        0   1   2   3   4   5   6   ...     handed out in order, at most two a thread ahead
    threads      a   b   a   b   b   a               each makes one at a time, with inputs and blocks of its own
    results      0   1   2   3                       given to the caller in order: all before them is written

The threads only copy and compute. Progress, syncs and errors are the caller's, and so a signal ends it as ever.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from types import TracebackType

    from typing_extensions import Self

M = TypeVar("M")
"""A member: what one thread works with, and no other."""
T = TypeVar("T")
"""A task."""
R = TypeVar("R")
"""What becomes of it."""

_AHEAD = 2
"""Tasks a thread: enough that none of them waits while the caller syncs, few enough to be dropped soon."""
_SECONDS = 0.1
"""How often the caller reports on a task that takes long."""


class Threads(Generic[M, T, R]):
    """A thread for each of `members`, which makes `make(member, task)`; use it as a context manager.

    Where a limit leaves no room for a thread there is one less, and without any the caller makes all.
    """

    def __init__(self, members: Iterable[M], make: Callable[[M, T], R]) -> None:
        self._make = make
        self._waiting: SimpleQueue[tuple[T, Future[R]] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, args=(member,), name="zeroconsolidate-worker", daemon=True)
            for member in members
        ]

    def __enter__(self) -> Self:
        started = []
        for thread in self._threads:
            try:
                thread.start()
            except RuntimeError:
                break
            started.append(thread)
        self._threads = started
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def in_order(self, tasks: Iterable[T], *, meanwhile: Callable[[], None] | None = None) -> Generator[R]:
        """What becomes of each task, in the order of the tasks. Raises what the first that failed raised, when those
        under way have ended; the others are not begun. `meanwhile` is called now and then while a long one is made."""

        def result(made: Future[R]) -> R:
            while meanwhile is not None and not wait([made], timeout=_SECONDS).done:
                meanwhile()
            return made.result()

        under_way: deque[Future[R]] = deque()
        try:
            for task in tasks:
                made: Future[R] = Future()
                self._waiting.put((task, made))
                under_way.append(made)
                if len(under_way) >= _AHEAD * len(self._threads):
                    yield result(under_way.popleft())
            while under_way:
                yield result(under_way.popleft())
        finally:
            for left in under_way:
                left.cancel()

    @property
    def are_there(self) -> bool:
        """Whether any thread could be started."""
        return bool(self._threads)

    def _work(self, member: M) -> None:
        while (taken := self._waiting.get()) is not None:
            task, made = taken
            if made.set_running_or_notify_cancel():
                try:
                    made.set_result(self._make(member, task))
                except BaseException as error:  # noqa: BLE001  (raised where the result is asked for)
                    made.set_exception(error)
            del taken, task, made  # a thread that waits holds nothing


class Tally:
    """What threads count, and their caller reports with `report(n)`."""

    def __init__(self, report: Callable[[int], None]) -> None:
        self._report = report
        self._turn = threading.Lock()
        self._sum = 0

    def add(self, number: int) -> None:
        """Count. From any thread."""
        with self._turn:
            self._sum += number

    def report(self) -> None:
        """Report what was counted since the last time."""
        with self._turn:
            number, self._sum = self._sum, 0
        if number:
            self._report(number)

    def reported(self, made: Iterable[R]) -> Iterator[R]:
        """The same results; what was counted is reported before each."""
        for result in made:
            self.report()
            yield result
