"""What every store has in common, whatever client it is reached through: what was listed a moment ago, and patience."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from .store_calls import answered

CONNECTIONS = 48
"""To one store at a time: as many as reading and writing together have requests under way."""
LISTED_SECONDS = 3.0
"""So long a listing is believed: one command asks for the same folders again and again."""
_LISTINGS = 4096
_KNOWN = 1 << 17


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """What a store says of an object or a folder."""

    name: str
    """The last part of its path."""
    is_folder: bool
    size_bytes: int
    identity: str
    """Changes when the content does: an ETag, a generation, a digest, or a time."""


class Store:
    """What is reached with one scheme. Any number of threads may use it.

    Raises FileNotFoundError for what is not there, StoreFailed if the store refuses or does not answer, DamagedFile for
    an object that is another than it was.
    """

    def __init__(self, scheme: str) -> None:
        self.scheme = scheme
        self._listed: dict[str, tuple[float, dict[str, Item]]] = {}
        self.known: dict[str, Item] = {}
        """What an object was when its metadata were read: its values must be of the same."""
        self._turn = threading.Lock()

    def look(self, url: str) -> Item:
        """What is there."""
        folder, _, name = url.rpartition("/")
        listed = self._remembered(folder)
        if listed is not None:
            if name not in listed:
                raise FileNotFoundError(url)
            return listed[name]
        return answered(url, lambda: self._info(url))

    def entries(self, url: str) -> dict[str, Item]:
        """What is directly in a folder, by name. Raises NotADirectoryError for an object."""
        listed = self._remembered(url)
        if listed is None:
            begun = time.monotonic()
            found = answered(url, lambda: self._list(url))
            if len(self._listed) + len(found) > _LISTINGS:
                self._listed.clear()
            self._listed |= {folder: (begun, items) for folder, items in found.items()}
            listed = found[url]
        return listed

    def tree(self, url: str) -> dict[str, Item]:
        """All objects in a folder, however deep, by their paths in it."""
        return answered(url, lambda: self._tree(url))

    def read(self, url: str, start: int, stop: int, item: Item) -> bytes | bytearray:
        """Bytes `[start, stop)` of the object that `item` describes."""

        def once() -> bytes | bytearray:
            data = self._range(url, start, stop, item)
            if len(data) != stop - start:
                raise OSError(f"{len(data)} bytes came in place of {stop - start}")
            return data

        return answered(url, once)

    def fetch(self, url: str) -> bytes:
        """A small object, whole, as it is now."""
        return answered(url, lambda: self._whole(url))

    def know(self, url: str, item: Item) -> None:
        """Remember what an object is."""
        with self._turn:
            self.known.pop(url, None)
            while len(self.known) >= _KNOWN:
                self.known.pop(next(iter(self.known)))
            self.known[url] = item

    def forget(self) -> None:
        """What was listed may have changed: something was written."""
        self._listed.clear()

    def _remembered(self, folder: str) -> dict[str, Item] | None:
        """What a folder held a moment ago."""
        begun, listed = self._listed.get(folder, (0.0, None))
        return listed if time.monotonic() - begun < LISTED_SECONDS else None

    def _info(self, url: str) -> Item:
        """What is there, by one attempt, like all that follow."""
        raise NotImplementedError

    def _list(self, url: str) -> dict[str, dict[str, Item]]:
        """What is directly in a folder, by name, and in what other folders are told by the way."""
        raise NotImplementedError

    def _tree(self, url: str) -> dict[str, Item]:
        raise NotImplementedError

    def _whole(self, url: str) -> bytes:
        raise NotImplementedError

    def _range(self, url: str, start: int, stop: int, item: Item) -> bytes | bytearray:
        raise NotImplementedError
