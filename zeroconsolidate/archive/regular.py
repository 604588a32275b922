"""A path that is not trusted -> an open file, if it is a regular file inside its directory.

A folder from the internet can hold a pipe (opening it waits for ever), a device, or a link to a private key
(copied beside the weights, it is published with them).

A URL leads to a file, too (`remote.py`, imported only then): stores have neither links nor devices.
"""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ..errors import DamagedFile, UnsafePath, ZeroConsolidateError, reason
from ..options.urls import is_url, real

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
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


class Positioned(Protocol):
    """An open file that is read at positions."""

    @property
    def size_bytes(self) -> int:
        """Its length."""

    @property
    def is_remote(self) -> bool:
        """Whether each read is a request, so that it is worth saying before what will be read."""

    def pread(self, size_bytes: int, start: int) -> bytes:
        """Exactly so many bytes from `start`. Raises DamagedFile if the file ends before."""

    def expect(self, ranges: Iterable[tuple[int, int]]) -> None:
        """These `[start, stop)` will be read."""

    def close(self) -> None:
        """Close the file."""


class LocalFile:
    """A regular file of this machine. Raises OSError, and UnsafePath as :func:`open_regular` does."""

    __slots__ = ("fd", "size_bytes")
    is_remote = False

    def __init__(self, path: str) -> None:
        self.fd = open_regular(path)
        self.size_bytes = os.fstat(self.fd).st_size

    def pread(self, size_bytes: int, start: int) -> bytes:
        """Exactly so many bytes from `start`."""
        return read_exactly(self.fd, size_bytes, start)

    def expect(self, ranges: Iterable[tuple[int, int]]) -> None:
        """The kernel reads ahead by itself."""

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.fd)


def opened(path: str) -> Positioned:
    """The file at a path or URL. Raises OSError, UnsafePath, and StoreFailed for a URL."""
    if is_url(path):
        from .remote import RemoteFile

        return RemoteFile(path)
    return LocalFile(path)


class OpenFile(ABC):
    """A regular file, open to be read at positions; use it as a context manager.

    `file`: the open file, if it has been opened before. Raises OSError, UnsafePath if it is not a regular file, and
    what `_begin` raises.
    """

    def __init__(self, path: str, file: Positioned | None = None) -> None:
        self.path = path
        self._file = opened(path) if file is None else file
        self.size_bytes = self._file.size_bytes
        try:
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
        self._file.close()

    def pread(self, size_bytes: int, start: int) -> bytes:
        """Exactly `size_bytes` bytes of the file from `start`. Raises DamagedFile if it ends before."""
        return self._file.pread(size_bytes, start)


def read_small(path: str, limit_bytes: int) -> bytes:
    """The whole of a small file.

    Raises DamagedFile if it cannot be read or is larger than `limit_bytes`, UnsafePath as :func:`open_regular` does.
    """
    if is_url(path):
        from .remote import RemoteFile

        with read_errors(), closing(RemoteFile(path, is_located=False)) as remote:
            if remote.size_bytes > limit_bytes:
                raise DamagedFile("the file is too large", expected=f"at most {limit_bytes} bytes")
            return remote.pread(remote.size_bytes, 0)
    with read_errors(), open(open_regular(path), "rb") as file:
        # No more memory is asked for than the file is long: a limit on it may be tight.
        data = file.read(min(limit_bytes, os.fstat(file.fileno()).st_size) + 1)
    if len(data) > limit_bytes:
        raise DamagedFile("the file is too large", expected=f"at most {limit_bytes} bytes")
    return data


class Status(Protocol):
    """What is known of a file, under the system's names."""

    @property
    def st_size(self) -> int:
        """Bytes."""

    @property
    def st_mtime_ns(self) -> int:
        """When it was changed; 0 where the store is not asked."""


@runtime_checkable
class InStore(Status, Protocol):
    """The same of an object of a store."""

    @property
    def identity(self) -> str:
        """Changes when the content does."""


class Entry(Protocol):
    """What is in a directory: of `os.DirEntry`, what is used."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def path(self) -> str:
        """The path that leads to it."""

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Whether it is a directory, or a link to one."""

    def is_file(self) -> bool:
        """Whether it is a file, or a link to one."""

    def is_symlink(self) -> bool:
        """Whether it is a link."""

    def stat(self) -> Status:
        """Its status."""


def scan(directory: str) -> Iterator[Entry]:
    """The entries of a directory. Raises OSError, and DamagedFile after MAX_ENTRIES of them."""
    if is_url(directory):
        from .remote import entries as entries_of

        yield from few(entries_of(directory))
        return
    with os.scandir(directory) as entries:
        yield from few(entries)


def few(entries: Iterable[Entry]) -> Iterator[Entry]:
    """The entries. Raises DamagedFile after MAX_ENTRIES of them."""
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
        self._inside = {real(directory) for directory in directories}
        for place in tuple(self._inside):
            repository, found, _ = place.rpartition("/snapshots/")
            if found and os.path.basename(repository).partition("--")[0] in ("models", "datasets", "spaces"):
                self._inside.add(f"{repository}/blobs")

    def check(self, path: str) -> None:
        """Raise UnsafePath if `path` leads out of these directories."""
        leads_to = real(path)
        if not any(is_within(leads_to, inside) for inside in self._inside):
            raise UnsafePath(
                f"this is a link out of its directory, to {leads_to}",
                remedy="put the file itself there if it belongs to the checkpoint",
            )
