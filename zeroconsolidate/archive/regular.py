"""Opening files of a directory that someone else made: regular files only, and only those that lie in it.

A folder from the internet can hold a pipe (opening it waits for ever), a device, or a link to a private key
(copied beside the weights, it is published with them).
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from ..errors import DamagedFile, UnsafePath, reason

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_ENTRIES = 1 << 18
"""A directory with more entries than this is refused. 1,024 ranks make 2,048 files."""

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: str) -> int:
    """A descriptor of the file for reading. Raises OSError, and UnsafePath for anything but a regular file."""
    # O_NONBLOCK: a pipe without a writer is opened at once (and then refused); regular files do not care.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):
        return fd
    os.close(fd)
    raise UnsafePath(f"this is {_KINDS.get(stat.S_IFMT(mode), 'no file')}", expected="a regular file")


def read_small(path: str, limit_bytes: int) -> bytes:
    """The whole of a small file.

    Raises DamagedFile if it cannot be read or is larger than `limit_bytes`, UnsafePath as :func:`open_regular` does.
    """
    try:
        with open(open_regular(path), "rb") as file:
            data = file.read(limit_bytes + 1)
    except OSError as error:
        raise DamagedFile(f"the file cannot be read: {reason(error)}") from None
    if len(data) > limit_bytes:
        raise DamagedFile("the file is too large", expected=f"at most {limit_bytes} bytes")
    return data


def scan(directory: str) -> Iterator[os.DirEntry[str]]:
    """The entries of a directory. Raises OSError, and DamagedFile after MAX_ENTRIES of them."""
    with os.scandir(directory) as entries:
        for count, entry in enumerate(entries):
            if count >= MAX_ENTRIES:
                raise DamagedFile("the directory is too full", expected=f"at most {MAX_ENTRIES} entries")
            yield entry


class Fence:
    """The directories that links may lead to: the given ones and, in the Hugging Face cache, its blobs.

    There a snapshot is made of links: `models--x/snapshots/<revision>/config.json -> ../../blobs/<digest>`.
    """

    def __init__(self, *directories: str) -> None:
        self._inside = {os.path.realpath(directory) for directory in directories}
        for real in tuple(self._inside):
            repository, found, _ = real.rpartition("/snapshots/")
            if found and os.path.basename(repository).partition("--")[0] in ("models", "datasets", "spaces"):
                self._inside.add(f"{repository}/blobs")

    def check(self, path: str) -> None:
        """Raise UnsafePath if `path` leads out."""
        real = os.path.realpath(path)
        if not any(real == inside or real.startswith(inside.rstrip("/") + "/") for inside in self._inside):
            raise UnsafePath(
                f"this is a link out of its directory, to {real}",
                remedy="put the file itself there if it belongs to the checkpoint",
            )
