"""A file that is uploaded while it is made: whole parts go to the store, several at a time.

    written so far     ████████████████████▒▒▒▒▒▒▒▒░░░░
    parts              1      2      3      4      5        of one size; 1 and 2 are in the store, 3 and 4 under way

The parts' size follows from the file's, so that a run which continues cuts the same parts.
"""

from __future__ import annotations

import copy
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import PlanBroken
from ..run.storage import Writable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from concurrent.futures import Future, ThreadPoolExecutor

    from ..integrations.object_uploads import Uploads


PART_BYTES = 8 << 20
"""The usual part. Eight are under way, and as many as threads begin at a time are being filled."""
MOST_PARTS = 9_000
"""S3 takes 10,000: larger files have larger parts."""
NOTED_BYTES = 256 << 20
NOTED_SECONDS = 10.0
"""How much work lies between two notes of what the store has: a note is an object that is written again."""
_HELD_PARTS = 8
"""What waits to be read back."""


def part_bytes_of(size_bytes: int) -> int:
    """The size of the parts of a file: a multiple of 1 MiB.

    >>> part_bytes_of(10**9) >> 20, part_bytes_of(10**12) >> 20
    (8, 106)
    """
    return max(PART_BYTES, (-(-size_bytes // MOST_PARTS) + (1 << 20) - 1) >> 20 << 20)


def numbers_of(start: int, stop: int, size_bytes: int) -> range:
    """The numbers, from 1, of the parts that bytes `[start, stop)` of a file are sent in. Both lie where parts begin or
    end. Raises PlanBroken if they do not.

    >>> numbers_of(8 << 20, 24 << 20, 10**9)
    range(2, 4)
    """
    part_bytes = part_bytes_of(size_bytes)
    if start % part_bytes or (stop % part_bytes and stop != size_bytes):
        raise PlanBroken("a part of an upload is cut in two", found=f"bytes {start} to {stop}")
    return range(start // part_bytes + 1, -(-stop // part_bytes) + 1)


class Room:
    """What may be under way at a time, of all files together: so many requests, and so many bytes, or one request of
    more."""

    def __init__(self, requests: int, most_bytes: int) -> None:
        self._requests, self._bytes, self._all = requests, most_bytes, most_bytes
        self._turn = threading.Condition()

    def take(self, size_bytes: int) -> None:
        """Wait until there is room."""
        size_bytes = min(size_bytes, self._all)
        with self._turn:
            self._turn.wait_for(lambda: self._requests and self._bytes >= size_bytes)
            self._requests -= 1
            self._bytes -= size_bytes

    def give(self, size_bytes: int) -> None:
        """What was taken is free again."""
        with self._turn:
            self._requests += 1
            self._bytes += min(size_bytes, self._all)
            self._turn.notify_all()


def room_for(uploads: Uploads, sizes: Iterable[int]) -> Room:
    """Room for uploads of files of these sizes: as many bytes as the largest has under way by itself."""
    most_bytes = uploads.in_flight * max((part_bytes_of(size_bytes) for size_bytes in sizes), default=PART_BYTES)
    return Room(max(uploads.in_flight, uploads.objects_in_flight), most_bytes)


class Notes(Protocol):
    """Where it is written down what the store has of a file."""

    def remember(self, name: str, upto: int, facts: dict[str, Any]) -> None:
        """The store has all bytes of the file below `upto`."""


class Sent(Writable):
    """The output of one file, or of its bytes `[begin, stop)`. Any thread may write; `begin` and `start`, from where on
    they are written, lie where a part begins, and `stop` where one ends.

    `kept`: what is written is read back from its beginning on (for digests), and held until it has been. `copy` is
    given all that is written, and where.
    Raises StoreFailed for a part that could not be sent, when the next is, or at the end.
    """

    def __init__(
        self,
        send: Callable[[int, bytearray], str],
        pool: ThreadPoolExecutor,
        *,
        size_bytes: int,
        begin: int = 0,
        start: int,
        stop: int | None = None,
        room: Room,
        kept: bool,
        copy: Callable[[memoryview, int], None] | None = None,
    ) -> None:
        self.part_bytes = part_bytes_of(size_bytes)
        self._numbers = numbers_of(begin, size_bytes if stop is None else stop, size_bytes)
        self.etags: dict[int, str] = {}
        self._send, self._pool = send, pool
        self._size_bytes = size_bytes
        self._room, self._copy = room, copy
        self._turn = threading.Condition()
        self._filling: dict[int, tuple[bytearray, int]] = {}
        self._under_way: list[Future[None]] = []
        self._given = set[int]()
        self._kept = kept
        self._held: dict[int, bytearray] = {}
        """What was sent and has not been read back."""
        self._read_upto = start
        self._error: BaseException | None = None

    def write(self, data: bytes | memoryview, start: int) -> None:
        """All of `data` at byte `start`. Every byte is written once."""
        view = memoryview(data).cast("B")
        if self._copy is not None:
            self._copy(view, start)
        while view:
            number, offset = divmod(start, self.part_bytes)
            begin = number * self.part_bytes
            length = min(self.part_bytes, self._size_bytes - begin)
            piece = view[: length - offset]
            with self._turn:
                self._raise()
                part, filled = self._filling.get(number) or (bytearray(length), 0)
                part[offset : offset + len(piece)] = piece
                self._filling[number] = (part, filled + len(piece))
                full = filled + len(piece) == length
                if full:
                    del self._filling[number]
                    if self._kept:
                        self._held[number] = part
                elif filled + len(piece) > length:
                    raise PlanBroken("a part of an upload is written twice", found=f"byte {start}")
            if full:
                self._go(number, part)
            view, start = view[len(piece) :], start + len(piece)

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill `buffer` with what was written last and is held: read in order, from the beginning."""
        stop, here = start + len(buffer), start
        while here < stop:
            number, offset = divmod(here, self.part_bytes)
            with self._turn:
                held = self._held.get(number) or self._filling.get(number, (bytearray(), 0))[0]
                piece = memoryview(held)[offset : offset + stop - here]
                if not piece:
                    raise PlanBroken("what was uploaded is read back out of order", found=f"byte {here}")
                buffer[here - start : here - start + len(piece)] = piece
                here += len(piece)
                self._read_upto = here
                for done in [n for n in self._held if (n + 1) * self.part_bytes <= here]:
                    del self._held[done]
                self._turn.notify_all()

    def sent_upto(self) -> int:
        """The store has every byte below this."""
        with self._turn:
            number = self._numbers.start
            while number in self.etags:
                number += 1
            return min((number - 1) * self.part_bytes, self._size_bytes)

    @property
    def is_sent(self) -> bool:
        """Whether nothing is under way."""
        return all(each.done() for each in self._under_way)

    def close(self) -> None:
        """All must have been written, and is in the store or under way to it. Raises PlanBroken."""
        self._refuse_lacking(self._given)

    def drain(self) -> None:
        """Wait until nothing is under way, whatever becomes of it."""
        for each in self._under_way:
            each.exception()

    def finish(self) -> None:
        """Wait until the store has all that was written."""
        for each in self._under_way:
            each.result()
        self._refuse_lacking(self.etags)

    def _refuse_lacking(self, there: Collection[int]) -> None:
        with self._turn:
            self._raise()
            lacking = [number for number in self._numbers if number not in there and number not in self.etags]
            if self._filling or lacking:
                first = min([*lacking, *(number + 1 for number in self._filling)])
                raise PlanBroken("a part of an upload is not written", found=f"part {first}")

    def _go(self, number: int, data: bytearray) -> None:
        if self._kept:
            with self._turn:
                # A reader that is behind holds back who writes.
                self._turn.wait_for(
                    lambda: (
                        self._error is not None
                        or number * self.part_bytes <= self._read_upto + _HELD_PARTS * self.part_bytes
                    )
                )
        self._room.take(len(data))
        try:
            self._under_way = [each for each in self._under_way if not each.done() or each.exception()]
            self._under_way.append(self._pool.submit(self._sent, number, data))
            self._given.add(number + 1)
        except BaseException:
            self._room.give(len(data))
            raise

    def _sent(self, number: int, data: bytearray) -> None:
        try:
            with self._turn:
                self._raise()
            etag = self._send(number + 1, data)
            with self._turn:
                self.etags[number + 1] = etag
        except BaseException as error:
            with self._turn:
                self._error = self._error or error
                self._turn.notify_all()
            raise
        finally:
            self._room.give(len(data))

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error


class SentPart:
    """An upload while it is made: what :class:`.part.Part` is for a file on a disk."""

    def __init__(self, output: Sent, name: str, *, start: int, facts: dict[str, Any], notes: Notes) -> None:
        self.output, self.name, self.start, self.facts = output, name, start, facts
        self._notes = notes
        self._known: list[tuple[int, dict[str, Any]]] = []
        """How far the file was written, and the facts at that moment."""
        self._noted, self._clock = start, time.monotonic()

    def reached(self, upto: int) -> None:
        """Every byte below `upto` is written; what the store has is remembered when enough has come together."""
        part_bytes = self.output.part_bytes
        if upto // part_bytes * part_bytes > (self._known[-1][0] if self._known else self._noted):
            self._known.append((upto, copy.deepcopy(self.facts)))
        if upto - self._noted >= NOTED_BYTES or time.monotonic() - self._clock >= NOTED_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Remember what the store has, as far as it was known what to remember of it.

        Facts are counts of what is written, and belong to the byte they were counted at: a run that continues begins
        there, or at the part that has it.
        """
        sent = self.output.sent_upto()
        part_bytes = self.output.part_bytes
        usable = [(upto, facts) for upto, facts in self._known if upto // part_bytes * part_bytes <= sent]
        self._clock = time.monotonic()
        if usable:
            upto, facts = usable[-1]
            if not facts.get("overflows"):
                self._notes.remember(self.name, upto // part_bytes * part_bytes, facts)
            self._noted = upto
            self._known = self._known[len(usable) :]
