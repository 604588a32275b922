"""The journal of an output in a store: the records of :mod:`.journal`, in an object that is written again as a whole.

It is rewritten at most every few seconds, and always before something becomes visible. Whoever has written it last is
the one who works on the output: a run that finds another's name in it stops.
"""

from __future__ import annotations

import secrets
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from ..archive.remote import fetch
from ..errors import OutputBusy
from .journal import Progress, encoded, progress_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from concurrent.futures import Future

    from ..integrations.object_uploads import Uploads


class RemoteJournal:
    """The journal at a URL. Raises StoreFailed, and OutputBusy if another run has taken the output over."""

    def __init__(self, url: str, uploads: Uploads) -> None:
        self.url = url
        self._uploads = uploads
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="zeroconsolidate-journal")
        self._turn = threading.Lock()
        self._under_way: deque[Future[None]] = deque()
        self._text = read_journal(url)
        self.progress = progress_of(self._text)
        self._written_bytes = 0
        self._run = secrets.token_hex(8)

    def begin(self, *records: Mapping[str, Any]) -> None:
        """Write our name into it, and these records; what was there stays if the first of them is no beginning."""
        if records and "begin" in records[0]:
            self._text, self.progress = b"", Progress()
        self._add({"run": self._run}, *records)
        self._write(self._text)

    def append(self, *records: Mapping[str, Any]) -> None:
        """Write records. What they state must be true of the store already.

        Raises OutputBusy if another run has written the journal since we did.
        """
        self.later(*records)
        self.wait()

    def later(self, *records: Mapping[str, Any]) -> None:
        """As :meth:`append`, by a thread, while other things go on. Any thread may call it.

        `progress` has them at once. What the thread has raised is raised here, or by the next call.
        """
        with self._turn:
            while self._under_way and self._under_way[0].done():
                self._under_way.popleft().result()
            self._add(*records)
            self._under_way.append(self._pool.submit(self._appended, self._text))

    def wait(self) -> None:
        """Wait until all records are written."""
        with self._turn:
            while self._under_way:
                self._under_way.popleft().result()

    def close(self) -> None:
        """End the thread; records that are not written yet are written before."""
        self._pool.shutdown()

    def _appended(self, text: bytes) -> None:
        if len(text) <= self._written_bytes:
            return  # with what was appended after it
        if progress_of(read_journal(self.url)).run != self._run:
            raise OutputBusy(
                "another conversion has taken over this output", remedy="wait for it, or name another output"
            )
        self._write(self._text)

    def _add(self, *records: Mapping[str, Any]) -> None:
        for record in records:
            self.progress.take(record)
        self._text += encoded(*records)

    def _write(self, text: bytes) -> None:
        self._uploads.put(self.url, text)
        self._written_bytes = len(text)


def read_journal(url: str) -> bytes:
    """The content of the journal, empty if there is none."""
    return fetch(url) or b""


def continued(
    progress: Progress, uploads: Uploads, name: str, url: str, part_bytes: int, *, afresh: bool
) -> tuple[int, str, dict[int, str], dict[str, Any]]:
    """Where an upload goes on, what it is known by, the ETags of its parts, and what is remembered of it.

    `afresh`: all of its bytes are needed once more, so all of its parts are sent again.
    """
    upload = progress.uploads.get(name, "")
    there = uploads.parts(url, upload) if upload else None
    if there is None:
        return 0, "", {}, {}
    count = 0 if afresh else progress.upto.get(name, 0) // part_bytes
    if any(number not in there or there[number].size_bytes != part_bytes for number in range(1, count + 1)):
        count = 0
    etags = {number: there[number].etag for number in range(1, count + 1)}
    return count * part_bytes, upload, etags, progress.facts.get(name, {}) if count else {}
