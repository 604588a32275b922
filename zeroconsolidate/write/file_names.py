"""Names of files to be written -> an error for those that the file system cannot hold, before anything is written."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..archive.printable import described
from ..errors import OutputFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def refuse_names(folder: str, below: str, names: Iterable[str], *, output: str) -> None:
    """The file system of `folder` must take files of these `names`, which may contain folders, in the folder `below`.

    Raises OutputFailed for a name that is too long, and for two that differ only in case where that is not kept apart;
    and the system's errors.
    """
    parts = dict.fromkeys(part for name in names for part in _paths(name))
    most, longest = (os.pathconf(folder, limit) for limit in ("PC_NAME_MAX", "PC_PATH_MAX"))
    for path in parts:
        own, whole = os.path.basename(path), os.path.join(below, path)
        if len(os.fsencode(own)) > most:
            raise OutputFailed(
                "a name is too long for the file system",
                expected=f"at most {most} bytes",
                found=f"{len(os.fsencode(own))}: {described(own)}",
                address=(output,),
            )
        if len(os.fsencode(whole)) >= longest:
            raise OutputFailed(
                "a path is too long for the system",
                expected=f"at most {longest - 1} bytes",
                found=f"{len(os.fsencode(whole))}: {described(path)}",
                remedy="name an output with a shorter path",
                address=(output,),
            )
    _refuse_alike(folder, parts, output)


def _paths(name: str) -> Iterator[str]:
    """The folders a file is in, from the outermost, and the file."""
    found = name.find("/")
    while found >= 0:
        yield name[:found]
        found = name.find("/", found + 1)
    yield name


def _refuse_alike(folder: str, paths: Iterable[str], output: str) -> None:
    """One of two files whose names differ only in case would replace the other."""
    first: dict[str, str] = {}
    for path in paths:
        other = first.setdefault(path.casefold(), path)
        if other != path and _folds_case(folder):
            raise OutputFailed(
                "two names differ only in case, which this file system does not keep apart",
                found=f"{described(os.path.basename(other))} and {described(os.path.basename(path))}",
                remedy="write to another file system",
                address=(output,),
            )


def _folds_case(folder: str) -> bool:
    """Whether something in the folder is found under its name in the other case. Without anything in it, it is not."""
    for name in os.listdir(folder):
        path, other = os.path.join(folder, name), os.path.join(folder, name.swapcase())
        if other != path:
            return os.path.lexists(other) and os.path.samestat(os.lstat(other), os.lstat(path))
    return False
