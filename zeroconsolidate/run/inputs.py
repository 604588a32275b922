"""The open files of a run, and what is made once and shared between tensors."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from ..options.mapped import EVERYTHING_HERE
from .files import Files
from .local import NOTHING_KNOWN
from .quota import allowed

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping
    from types import TracebackType

    from typing_extensions import Self

    from ..options.mapped import Mapped
    from .storage import Readable


class Resource(Protocol):
    """Something that is kept open during a run."""

    def close(self) -> None:
        """Close it."""


R = TypeVar("R", bound=Resource)


class Inputs:
    """The inputs of one thread's run; use it as a context manager.

    `files` may be shared by several runs at a time; the caller that made it closes it. None: files of this machine, and
    of stores. `drop_cache`: the page cache does not keep what is read of them. `known`: what files looked like when
    it was decided where in them values are.
    """

    def __init__(
        self,
        files: Readable | None = None,
        *,
        places: Mapped = EVERYTHING_HERE,
        drop_cache: bool = False,
        known: Mapping[str, Mapping[str, int | str]] = NOTHING_KNOWN,
    ) -> None:
        self._closing = ExitStack()
        if files is None:
            opened = Files(places, drop_cache=drop_cache, known=known)
            self._closing.callback(opened.close)
            files = opened
        self.files = files
        self._resources: dict[Hashable, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close what was made and opened here."""
        self._resources.clear()
        self._closing.close()

    def resource(self, key: Hashable, make: Callable[[], R]) -> R:
        """What was made under this key; it is made now if it was not. Closed at the end of the run, the last one made
        first."""
        if key not in self._resources:
            made = make()
            self._closing.callback(made.close)
            self._resources[key] = made
        found: R = self._resources[key]
        return found


@contextmanager
def side_by_side(inputs: Inputs, count: int) -> Iterator[tuple[Inputs, ...]]:
    """Inputs for so many threads, the first of them `inputs`. They share its files, and nothing else."""
    with ExitStack() as stack:
        yield (inputs, *(stack.enter_context(Inputs(inputs.files)) for _ in range(count - 1)))


def threads_for(workers: int | Literal["auto"]) -> int:
    """How many threads read, compare or hash values: by default one for each processor, up to MOST_BY_DEFAULT."""
    return processors() if workers == "auto" else workers


MOST_BY_DEFAULT = 8
"""More threads are taken only if they are asked for: a disk rarely feeds them, and a login node has others."""


def processors() -> int:
    """How many of the processors that this process may use it takes unasked."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, allowed() or usable, MOST_BY_DEFAULT)
