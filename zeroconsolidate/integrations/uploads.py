"""What can be written to a store: small objects whole, large ones in parts.

In S3 and Azure an upload in parts is invisible until it is completed, survives its process, and can be asked which
parts it has: it goes to the object's final name. Other stores take a stream, and only the process that began it can end
it: it goes to a name in the staging folder, and the store makes a copy when all is complete.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from ..errors import OutputFailed
from .store_calls import answered, in_short

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

T = TypeVar("T")

OBJECTS_IN_FLIGHT = 16
"""So many small objects are under way at a time where a client can: each waits for its answer, and moves little."""


@dataclass(frozen=True, slots=True)
class UploadedPart:
    """A part that the store has."""

    etag: str
    size_bytes: int


class Uploads:
    """Writing to one store. Raises StoreFailed, and FileNotFoundError for what is not there."""

    is_resumable = False
    """Whether another process can go on with an upload."""
    is_shared = False
    """Whether several machines can send parts of one upload, and :meth:`create` objects that one of them gets."""
    in_flight = 1
    """How many parts may be under way at a time. A stream takes them in order."""
    objects_in_flight = 1
    """How many objects may be under way at a time that are sent whole, or copied."""
    checks = "sizes, by the store's listing"
    """What the store says of what it was sent."""

    def put(self, url: str, data: bytes | bytearray) -> None:
        """An object, whole."""
        raise NotImplementedError

    def create(self, url: str, data: bytes) -> None:
        """An object, unless there is one of that name, as far as the store can tell: read afterwards which it is."""
        raise NotImplementedError

    def copy(self, url: str, target: str) -> None:
        """A copy of an object, which the store makes."""
        raise NotImplementedError

    def remove(self, urls: Iterable[str]) -> None:
        """Remove objects, as far as they are there."""
        raise NotImplementedError

    def begin(self, url: str, part_bytes: int) -> str:
        """Begin an upload in parts; returns what it is known by."""
        raise NotImplementedError

    def part(self, url: str, upload: str, number: int, data: bytes | bytearray) -> str:
        """Part `number`, from 1; returns its ETag."""
        raise NotImplementedError

    def parts(self, url: str, upload: str) -> dict[int, UploadedPart] | None:
        """The parts that the store has, by number; None if there is no such upload any more."""
        raise NotImplementedError

    def complete(self, url: str, upload: str, parts: Mapping[int, str]) -> None:
        """Make an object of the parts, by number, and their ETags."""
        raise NotImplementedError

    def give_up(self, url: str, upload: str) -> None:
        """Remove an upload with all its parts, if it is there and the store can."""
        raise NotImplementedError

    def unfinished(self, folder: str) -> list[tuple[str, str]]:
        """Uploads of objects in a folder that were begun: URL and what each is known by."""
        raise NotImplementedError


def answered_if_there(url: str, call: Callable[[], T]) -> T:
    """The answer to a call that needs its bucket, and its upload if it is a part of one."""
    try:
        return answered(url, call)
    except FileNotFoundError as error:
        raise OutputFailed(
            f"the store has no such bucket or container, or no such upload any more: {in_short(error)}", address=(url,)
        ) from None


def each_removed(remove: Callable[[str], object], urls: Iterable[str], *, in_flight: int) -> None:
    """Call `remove` for objects, so many at a time, as far as they are there."""

    def removed(url: str) -> None:
        with suppress(FileNotFoundError):
            remove(url)

    with ThreadPoolExecutor(in_flight, thread_name_prefix="zeroconsolidate-remove") as pool:
        for _ in pool.map(removed, urls):
            pass  # what one of them has raised
