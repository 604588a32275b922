"""A URL -> the same that a path gives: entries of a folder, and files that are read at positions.

    [ head ]  local header of a storage .. local header of a storage ..                 [ tail ]
      64 KiB             256 bytes              256 bytes                                 64 KiB

A file is looked up once, and opened with two requests side by side: its head (data.pkl, or a header of safetensors) and
its tail (the zip directory). What is asked for later and known before (the local header of each storage) is requested
together, what lies near each other in one request. Several files are opened side by side. No file is read whole, unless
it is small.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

from ..errors import DamagedFile
from ..integrations.object_stores import Item, store_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

IN_FLIGHT = 32
"""Requests at a time, and files that are being opened at a time."""
END_BYTES = 64 << 10
"""What is read of each end of a file when it is opened; one of four times that is read whole."""
NEAR_BYTES = 32 << 10
"""Two ranges with less between them are one request: it costs less than a second one."""
MOST_BYTES = 8 << 20
"""A longer range is cut into requests of this size."""
KEPT_BYTES = 1 << 20
"""What is read by the way is kept for a second look if it is not longer."""

T = TypeVar("T")
R = TypeVar("R")


class RemoteFile:
    """An object that is read at positions. Raises FileNotFoundError, IsADirectoryError, StoreFailed, DamagedFile."""

    is_remote = True

    def __init__(self, url: str, *, ends: bool = True, is_located: bool = True) -> None:
        """`ends`: read the ends of the file at once, as it is now. Without, it is the file that was opened so before:
        if it is another by now, reading it is an error. `is_located`: it is read to learn where in it values are."""
        self._url = url
        self._store = store_of(url)
        known = None if ends else self._store.known.get(url)
        self.item = self._store.look(url) if known is None else known
        if self.item.is_folder:
            raise IsADirectoryError(url)
        if ends and is_located:
            self._store.know(url, self.item)
        self.size_bytes = self.item.size_bytes
        self._held: list[tuple[int, bytes]] = []
        if not ends:
            return
        if self.size_bytes <= 4 * END_BYTES:
            self.expect([(0, self.size_bytes)])
        else:
            self.expect([(0, END_BYTES), (self.size_bytes - END_BYTES, self.size_bytes)])

    def expect(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Read these `[start, stop)` side by side, as far as they are in the file and not held: they will be asked
        for."""
        inside = ((start, min(stop, self.size_bytes)) for start, stop in ranges)
        wanted = [(start, stop) for start, stop in inside if start < stop and self._find(start, stop) is None]
        together = merged(wanted, NEAR_BYTES, MOST_BYTES)
        self._held += zip((start for start, _ in together), self._read(together), strict=True)

    def pread(self, size_bytes: int, start: int) -> bytes:
        """Exactly these bytes. Raises DamagedFile if the file ends before."""
        stop = start + size_bytes
        if stop > self.size_bytes:
            raise DamagedFile("the file ends too early", expected=f"{stop} bytes", found=self.size_bytes)
        if size_bytes <= 0:
            return b""
        held = self._find(start, stop)
        if held is not None:
            first, data = held
            return data[start - first : stop - first]
        parts = [(here, min(here + MOST_BYTES, stop)) for here in range(start, stop, MOST_BYTES)]
        data = b"".join(self._read(parts))
        if size_bytes <= KEPT_BYTES:
            self._held.append((start, data))
        return data

    def request(self, start: int, stop: int) -> bytes | bytearray:
        """Bytes `[start, stop)`, by one request."""
        return self._store.read(self._url, start, stop, self.item)

    def close(self) -> None:
        """Give up what is held."""
        self._held.clear()

    def _find(self, start: int, stop: int) -> tuple[int, bytes] | None:
        return next((held for held in self._held if held[0] <= start and stop <= held[0] + len(held[1])), None)

    def _read(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        def read(part: tuple[int, int]) -> bytes:
            return bytes(self.request(*part))

        return [read(ranges[0])] if len(ranges) == 1 else list(_pool("ranges", os.getpid()).map(read, ranges))


@dataclass(frozen=True, slots=True)
class RemoteStatus:
    """What is known of the status of an object, under the system's names."""

    st_size: int
    identity: str
    """Changes when the content does."""
    st_mtime_ns: int = 0


class RemoteEntry:
    """An entry of a folder, with what `os.DirEntry` has."""

    __slots__ = ("_item", "name", "path")

    def __init__(self, folder: str, item: Item) -> None:
        self.name, self.path = item.name, f"{folder}/{item.name}"
        self._item = item

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        return self._item.is_folder

    def is_file(self) -> bool:
        return not self._item.is_folder

    def is_symlink(self) -> bool:
        """Stores have no links."""
        return False

    def stat(self) -> RemoteStatus:
        return RemoteStatus(self._item.size_bytes, self._item.identity)


def entries(folder: str) -> list[RemoteEntry]:
    """What is directly in a folder. Raises FileNotFoundError if nothing is, NotADirectoryError for an object."""
    return [RemoteEntry(folder, item) for item in store_of(folder).entries(folder).values()]


def tree(folder: str) -> list[str]:
    """The paths in it of all files in a folder, however deep."""
    return sorted(store_of(folder).tree(folder))


def sizes(folder: str) -> dict[str, int]:
    """The sizes of all files in a folder, however deep, by their paths in it."""
    return {name: item.size_bytes for name, item in store_of(folder).tree(folder).items()}


def look(url: str) -> Item | None:
    """What is there, None if nothing is."""
    try:
        return store_of(url).look(url)
    except FileNotFoundError:
        return None


def fetch(url: str) -> bytes | None:
    """A small object as it is now, None if there is none."""
    try:
        return store_of(url).fetch(url)
    except FileNotFoundError:
        return None


def in_listing(url: str) -> Item | None:
    """What the listing of its folder says of an object, None if it is not there."""
    folder, _, name = url.rpartition("/")
    try:
        return store_of(url).entries(folder).get(name)
    except FileNotFoundError:
        return None


def forget(urls: Iterable[str]) -> None:
    """Forget what was listed."""
    for store in {id(store): store for store in map(store_of, urls)}.values():
        store.forget()


def merged(ranges: Sequence[tuple[int, int]], near_bytes: int, most_bytes: int) -> list[tuple[int, int]]:
    """The ranges in order, those with at most `near_bytes` between them as one, none of them longer than `most_bytes`
    by that.

    >>> merged([(0, 10), (12, 20), (40, 50)], 5, 100)
    [(0, 20), (40, 50)]
    """
    found: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if found and start - found[-1][1] <= near_bytes and stop - found[-1][0] <= most_bytes:
            found[-1] = (found[-1][0], max(found[-1][1], stop))
        else:
            found.append((start, stop))
    return found


def ahead(make: Callable[[T], R], of: Iterable[T]) -> Iterator[Callable[[], R]]:
    """For each in order what gives, or raises, the result of `make`, which threads call for the next ones meanwhile."""
    pool = _pool("files", os.getpid())
    under_way: deque[Future[R]] = deque()
    try:
        for each in of:
            under_way.append(pool.submit(make, each))
            if len(under_way) >= IN_FLIGHT:
                yield under_way.popleft().result
        while under_way:
            yield under_way.popleft().result
    finally:
        for left in under_way:
            left.cancel()


def side_by_side(read: Callable[[int, int], R], start: int, stop: int) -> Future[R]:
    """What a thread reads, IN_FLIGHT of them at a time."""
    return _pool("ranges", os.getpid()).submit(read, start, stop)


@lru_cache(maxsize=8)
def _pool(use: str, _process: int) -> ThreadPoolExecutor:
    # One for files, another for their ranges: who opens a file waits for ranges.
    return ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix=f"zeroconsolidate-{use}")
