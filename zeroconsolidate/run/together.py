"""Tasks -> what becomes of each, in order: made by one thread, or by several side by side."""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from .inputs import Inputs

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def in_order(
    make: Callable[[Inputs, T, Callable[[int], None]], R],
    tasks: Iterable[T],
    inputs: Inputs,
    *,
    others: Sequence[Inputs] = (),
    progress: Callable[[int], None],
) -> Iterator[Iterator[R]]:
    """`make(inputs, task, advance)` of each task, in the order of the tasks. With `others`, inputs for a further thread
    each, several are made at the same time.

    What `advance(n)` counts is given to `progress(n)`, by the caller's thread only. Leaving the block waits for what is
    under way; no more is begun.
    """
    if others:
        from .threads import Tally, Threads  # a single thread does not pay for it

        tally = Tally(progress)
        threads: Threads[Inputs, T, R] = Threads((inputs, *others), lambda own, task: make(own, task, tally.add))
        with threads:
            if threads.are_there:
                with closing(threads.in_order(tasks, meanwhile=tally.report)) as made:
                    yield tally.reported(made)
                return
    yield (make(inputs, task, progress) for task in tasks)
