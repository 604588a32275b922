"""Errors of the system -> OutputFailed; and the few calls that make file names durable."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import OutputFailed, ZeroConsolidateError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def system_errors(path: str) -> Iterator[None]:
    """The system's errors while writing `path`, as OutputFailed."""
    try:
        yield
    except OSError as error:
        if isinstance(error, ZeroConsolidateError):
            raise
        raise OutputFailed.from_system(path, error) from None


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of `data` at the file's current position."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def remove(path: str) -> None:
    """Remove a file if it is there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def sync_directory(path: str) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
