"""Where files are: what a path or a URL leads to. The local file system unless it is a URL.

Only for what is read. What is written is checked, synced and renamed by `write`.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

from ..options.urls import is_url
from .regular import scan

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Look: TypeAlias = "dict[str, int | str]"
"""What changes when a file does: its length and its time, or what its store says of it."""


def is_directory(path: str) -> bool:
    """Whether there is a directory."""
    if is_url(path):
        from .remote import look

        found = look(path)
        return found is not None and found.is_folder
    return os.path.isdir(path)


def is_file(path: str) -> bool:
    """Whether there is a file."""
    if is_url(path):
        from .remote import look

        found = look(path)
        return found is not None and not found.is_folder
    return os.path.isfile(path)


def exists(path: str) -> bool:
    """Whether anything is there, be it a link to nowhere."""
    if is_url(path):
        from .remote import look

        return look(path) is not None
    return os.path.lexists(path)


def size_bytes(path: str) -> int:
    """The length of a file. Raises OSError."""
    if is_url(path):
        from .remote import look

        found = look(path)
        if found is None:
            raise FileNotFoundError(2, os.strerror(2), path)
        return found.size_bytes
    return os.path.getsize(path)


def identity(path: str) -> Look:
    """By what it is known whether a file has changed, as it is now. Raises OSError.

    A store is asked for a folder at a time, and its answer believed for some seconds: see :func:`look_anew`.
    """
    if is_url(path):
        from .remote import in_listing

        found = in_listing(path)
        if found is None:
            raise FileNotFoundError(2, os.strerror(2), path)
        return {"bytes": found.size_bytes, "is": found.identity}
    return look_of(os.stat(path))


def look_of(status: os.stat_result) -> Look:
    """The same of a file of this machine, by its status."""
    return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}


def looks(paths: Iterable[str]) -> dict[str, Look]:
    """The same of files of this machine; those that have gone are left out. A store has its own way to tell that an
    object is no longer the one whose metadata were read (`remote.py`)."""
    found = {}
    for path in paths:
        if not is_url(path):
            with suppress(OSError):
                found[path] = identity(path)
    return found


def looks_in(directory: str | None) -> dict[str, Look]:
    """The same of all that lies in a directory of this machine, by its path joined with the name."""
    if directory is None or is_url(directory):
        return {}
    with suppress(OSError):
        return looks(os.path.join(directory, name) for name in names_in(directory))
    return {}


def look_anew(paths: Iterable[str]) -> None:
    """Forget what stores have said of these files: what is asked next is answered as it is now."""
    urls = [path for path in paths if is_url(path)]
    if urls:
        from .remote import forget

        forget(urls)


def names_in(directory: str) -> list[str]:
    """The names of what is in a directory. Raises OSError."""
    return [entry.name for entry in scan(directory)] if is_url(directory) else os.listdir(directory)


def is_same_file(one: str, other: str) -> bool:
    """Whether two paths lead to one file. Raises OSError."""
    if is_url(one) or is_url(other):
        return one == other
    return os.path.samefile(one, other)


def files_in(directory: str) -> Iterator[str]:
    """The paths of all files in a directory, however deep."""
    if is_url(directory):
        from .remote import tree

        yield from (f"{directory}/{name}" for name in tree(directory))
    else:
        for inside, _, files in os.walk(directory):
            yield from (os.path.join(inside, file) for file in files)
