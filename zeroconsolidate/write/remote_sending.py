"""Files of weights on their way into a store: whole if small, else in parts, from where an earlier run stopped.

Of many files, the next ones are made while the last ones are under way: no file waits for the answers to another.
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import PlanBroken, ZeroConsolidateError, at
from .remote_publish import staged
from .uploads import Room, Sent, SentPart, part_bytes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import ThreadPoolExecutor

    from ..integrations.object_uploads import Uploads
    from .remote_journal import RemoteJournal

_BEGUN_SECONDS = 1.0
"""How soon after another it is written down that an upload was begun. No later than what the store has of it."""


@dataclass(slots=True, kw_only=True)
class _File:
    """A file under way."""

    name: str
    size_bytes: int
    target: str
    begun: Future[str] | None
    """What its upload is known by; None for a file that is sent whole."""
    part: SentPart


class Sending:
    """Sends the files of an output, and writes down what the store has of them. Raises StoreFailed.

    `pool` sends what there is `room` for. `read_back`: what is sent is read back while it is made. `done(record)` is
    called when the store has all of a file.
    """

    def __init__(
        self,
        output: str,
        uploads: Uploads,
        journal: RemoteJournal,
        pool: ThreadPoolExecutor,
        room: Room,
        *,
        read_back: bool,
        done: Callable[[dict[str, Any]], None],
    ) -> None:
        self._output, self._uploads, self._journal, self._pool, self._room = output, uploads, journal, pool, room
        self._read_back, self._done = read_back, done
        self._under_way: deque[_File] = deque()
        self._noted = 0.0

    @contextmanager
    def file(
        self, name: str, size_bytes: int, *, together: bool, copy: Callable[[memoryview, int], None] | None
    ) -> Iterator[SentPart]:
        """A file, which is continued where an earlier run stopped, if the store can. With `together` it may still be
        under way when the block has ended: see :meth:`settle`. `copy` is given what is sent."""
        part_bytes = part_bytes_of(size_bytes)
        is_small = size_bytes <= part_bytes
        is_stream = not is_small and not self._uploads.is_resumable
        target = staged(self._output, name) if is_small or is_stream else f"{self._output}/{name}"
        start, etags, facts = 0, dict[int, str](), dict[str, Any]()
        begun: Future[str] | None = None
        if not is_small:
            if name in self._journal.progress.stretches:  # what is sent from here on replaces them
                self._journal.append({"file": name, "afresh": True})
            with at(name):
                start, upload, etags, facts = self._continued(name, target, part_bytes)
            if upload:
                begun = Future()
                begun.set_result(upload)
            else:  # the pool begins in order: before any part of it
                begun = self._pool.submit(self._begin, name, target, part_bytes)

        def send(number: int, data: bytearray) -> str:
            if begun is None:
                self._uploads.put(target, data)
                return ""
            return self._uploads.part(target, begun.result(), number, data)

        output = Sent(
            send,
            self._pool,
            size_bytes=size_bytes,
            start=start,
            # A stream takes its parts in order.
            room=Room(1, part_bytes) if is_stream else self._room,
            kept=self._read_back,
            copy=copy,
        )
        output.etags.update(etags)
        part = SentPart(output, name, start=start, facts=facts, notes=self)
        file = _File(name=name, size_bytes=size_bytes, target=target, begun=begun, part=part)
        try:
            yield part
            if not size_bytes:
                self._uploads.put(target, b"")
            output.close()
            if is_stream:
                output.finish()
        except BaseException as stopped:
            self._stop(file, stopped)
            raise
        if begun is not None and is_stream:
            self._uploads.complete(target, begun.result(), output.etags)
        self._under_way.append(file)
        self._collect(wait=not together)

    @property
    def is_under_way(self) -> bool:
        """Whether the store has not answered for all files."""
        return bool(self._under_way)

    def settle(self) -> None:
        """Wait until the store has all files."""
        self._collect(wait=True)

    def drain(self) -> None:
        """Wait until nothing is under way, whatever becomes of it, and write down what the store has."""
        while self._under_way:
            with suppress(ZeroConsolidateError):
                self._collect(wait=True)

    def remember(self, name: str, upto: int, facts: dict[str, Any]) -> None:
        """Journal, before long, that the store has the file below byte `upto`."""
        self._journal.later({"file": name, "upto": upto, "facts": facts})

    def _collect(self, *, wait: bool) -> None:
        while self._under_way and (wait or self._under_way[0].part.output.is_sent):
            file = self._under_way.popleft()
            try:
                with at(file.name):
                    file.part.output.finish()
            except BaseException as stopped:
                self._stop(file, stopped)
                raise
            self._done({"file": file.name, "done": file.size_bytes, "facts": file.part.facts})

    def _stop(self, file: _File, stopped: BaseException) -> None:
        """Keep what the store has of a file, if it can be continued."""
        file.part.output.drain()
        with suppress(ZeroConsolidateError):
            if file.begun is not None and self._uploads.is_resumable and not isinstance(stopped, PlanBroken):
                file.part.sync()
            elif file.begun is not None:
                self._uploads.give_up(file.target, file.begun.result())

    def _begin(self, name: str, target: str, part_bytes: int) -> str:
        with at(name):
            upload = self._uploads.begin(target, part_bytes)
        # Parts need not wait for the journal: an upload that none knows of is removed at the end all the same.
        self._journal.keep({"upload": upload, "file": name})
        if time.monotonic() - self._noted > _BEGUN_SECONDS:
            self._noted = time.monotonic()
            self._journal.later()
        return upload

    def _continued(self, name: str, url: str, part_bytes: int) -> tuple[int, str, dict[int, str], dict[str, Any]]:
        """Where an upload goes on, what it is known by, the ETags of its parts, and what is remembered of it."""
        progress = self._journal.progress
        upload = progress.uploads.get(name, "") if self._uploads.is_resumable else ""
        there = self._uploads.parts(url, upload) if upload else None
        if there is None:
            return 0, "", {}, {}
        upto = 0 if self._read_back else progress.upto.get(name, 0)
        count = upto // part_bytes
        if any(number not in there or there[number].size_bytes != part_bytes for number in range(1, count + 1)):
            count = 0
        etags = {number: there[number].etag for number in range(1, count + 1)}
        return count * part_bytes, upload, etags, progress.facts.get(name, {}) if count else {}
