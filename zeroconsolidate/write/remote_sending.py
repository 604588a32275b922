"""Files of weights on their way into a store: whole if small, else in parts, from where an earlier run stopped."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from ..errors import PlanBroken, ZeroConsolidateError, at
from .remote_publish import staged
from .uploads import Sent, SentPart, part_bytes_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import ThreadPoolExecutor

    from ..integrations.object_uploads import Uploads
    from .remote_journal import RemoteJournal


class Sending:
    """Sends the files of an output, and writes down what the store has of them. Raises StoreFailed.

    `pool` sends as many parts at a time as the store takes. `read_back`: what is sent is read back while it is made.
    """

    def __init__(
        self, output: str, uploads: Uploads, journal: RemoteJournal, pool: ThreadPoolExecutor, *, read_back: bool
    ) -> None:
        self._output, self._uploads, self._journal, self._pool = output, uploads, journal, pool
        self._read_back = read_back

    @contextmanager
    def file(self, name: str, size_bytes: int) -> Iterator[SentPart]:
        """A large file, which is continued where an earlier run stopped, if the store can."""
        url, part_bytes = f"{self._output}/{name}", part_bytes_of(size_bytes)
        is_small = size_bytes <= part_bytes
        start, upload, etags = 0, "", dict[int, str]()
        facts: dict[str, Any] = {}
        if not is_small:
            target = url if self._uploads.is_resumable else staged(self._output, name)
            if name in self._journal.progress.stretches:  # what is sent from here on replaces them
                self._journal.append({"file": name, "afresh": True})
            with at(name):
                start, upload, etags, facts = self._continued(name, target, part_bytes)
                if not upload:
                    upload = self._uploads.begin(target, part_bytes)
                    # Parts need not wait for it: an upload that no journal knows of is removed at the end all the same.
                    self._journal.later({"upload": upload, "file": name})

        def send(number: int, data: bytearray) -> str:
            if is_small:
                self._uploads.put(staged(self._output, name), data)
                return ""
            return self._uploads.part(target, upload, number, data)

        output = Sent(
            send,
            self._pool,
            size_bytes=size_bytes,
            start=start,
            in_flight=self._uploads.in_flight,
            kept=self._read_back,
        )
        output.etags.update(etags)
        part = SentPart(output, name, start=start, facts=facts, notes=self)
        try:
            yield part
            output.finish()
        except BaseException as stopped:
            output.drain()
            if self._uploads.is_resumable and not is_small and not isinstance(stopped, PlanBroken):
                with suppress(ZeroConsolidateError):
                    part.sync()
            elif upload:
                self._uploads.give_up(target, upload)
            raise
        if upload and not self._uploads.is_resumable:
            self._uploads.complete(target, upload, output.etags)

    def remember(self, name: str, upto: int, facts: dict[str, Any]) -> None:
        """Journal, before long, that the store has the file below byte `upto`."""
        self._journal.later({"file": name, "upto": upto, "facts": facts})

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
