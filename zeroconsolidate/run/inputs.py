"""The open files of a run, and what is made once and shared between tensors."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from .local import LocalFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from types import TracebackType

    from .storage import Readable


class Resource(Protocol):
    """Something that is kept open during a run."""

    def close(self) -> None:
        """Close it."""


R = TypeVar("R", bound=Resource)


class Inputs:
    """The inputs of one thread's run; use it as a context manager.

    `files` may be shared by several runs at a time; the caller that made it closes it. None: files of this machine.
    """

    def __init__(self, files: Readable | None = None) -> None:
        self._closing = ExitStack()
        if files is None:
            local = LocalFiles()
            self._closing.callback(local.close)
            files = local
        self.files = files
        self._resources: dict[Hashable, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
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
