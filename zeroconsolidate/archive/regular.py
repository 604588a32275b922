"""A path that is not trusted -> an open file, if it is a regular file inside its directory.

A folder from the internet can hold a pipe (opening it waits for ever), a device, or a link to a private key
(copied beside the weights, it is published with them).
"""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import DamagedFile, UnsafePath, ZeroConsolidateError, reason

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from typing_extensions import Self

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
    raise UnsafePath(f"this is {_KINDS.get(stat.S_IFMT(mode), 'not a file')}", expected="a regular file")


@contextmanager
def read_errors(*address: str) -> Iterator[None]:
    """The system's errors while a file is read, as DamagedFile. Our own errors pass through: some are OSErrors too."""
    try:
        yield
    except ZeroConsolidateError:
        raise
    except OSError as error:
        raise DamagedFile(f"the file cannot be read: {reason(error)}", address=address) from None


def read_exactly(fd: int, size_bytes: int, start: int) -> bytes:
    """Exactly `size_bytes` bytes of the file from `start`. Raises DamagedFile if it ends before."""
    data = os.pread(fd, size_bytes, start)
    while len(data) < size_bytes:
        more = os.pread(fd, size_bytes - len(data), start + len(data))
        if not more:
            raise DamagedFile(
                "the file ends too early", expected=f"{start + size_bytes} bytes", found=start + len(data)
            )
        data += more
    return data


class OpenFile(ABC):
    """A regular file, open to be read at positions; use it as a context manager.

    Raises OSError, UnsafePath if it is not a regular file, and what `_begin` raises.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = open_regular(path)
        try:
            self.size_bytes = os.fstat(self._fd).st_size
            self._begin()
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def _begin(self) -> None:
        """Read what tells where everything is."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def pread(self, size_bytes: int, start: int) -> bytes:
        """Exactly `size_bytes` bytes of the file from `start`. Raises DamagedFile if it ends before."""
        return read_exactly(self._fd, size_bytes, start)


def read_small(path: str, limit_bytes: int) -> bytes:
    """The whole of a small file.

    Raises DamagedFile if it cannot be read or is larger than `limit_bytes`, UnsafePath as :func:`open_regular` does.
    """
    with read_errors(), open(open_regular(path), "rb") as file:
        # No more memory is asked for than the file is long: a limit on it may be tight.
        data = file.read(min(limit_bytes, os.fstat(file.fileno()).st_size) + 1)
    if len(data) > limit_bytes:
        raise DamagedFile("the file is too large", expected=f"at most {limit_bytes} bytes")
    return data


def scan(directory: str) -> Iterator[os.DirEntry[str]]:
    """The entries of a directory. Raises OSError, and DamagedFile after MAX_ENTRIES of them."""
    with os.scandir(directory) as entries:
        for count, entry in enumerate(entries):
            if count >= MAX_ENTRIES:
                raise DamagedFile("the directory has too many entries", expected=f"at most {MAX_ENTRIES} entries")
            yield entry


def is_within(path: str, directory: str) -> bool:
    """Whether `path` is `directory` or lies in it; both are real paths."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


class Fence:
    """The directories that links may lead to: the given ones and, in the Hugging Face cache, its blobs.

    There, a snapshot consists of links: `models--x/snapshots/<revision>/config.json -> ../../blobs/<digest>`.
    """

    def __init__(self, *directories: str) -> None:
        self._inside = {os.path.realpath(directory) for directory in directories}
        for real in tuple(self._inside):
            repository, found, _ = real.rpartition("/snapshots/")
            if found and os.path.basename(repository).partition("--")[0] in ("models", "datasets", "spaces"):
                self._inside.add(f"{repository}/blobs")

    def check(self, path: str) -> None:
        """Raise UnsafePath if `path` leads out of these directories."""
        real = os.path.realpath(path)
        if not any(is_within(real, inside) for inside in self._inside):
            raise UnsafePath(
                f"this is a link out of its directory, to {real}",
                remedy="put the file itself there if it belongs to the checkpoint",
            )
