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
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future

    from ..integrations.object_uploads import Uploads


class RemoteJournal:
    """The journal at a URL. Raises StoreFailed, and OutputBusy if another run has taken the output over.

    `guard` is called before records are added to it, and raises if they must not be.
    """

    def __init__(self, url: str, uploads: Uploads, *, guard: Callable[[], None] = lambda: None) -> None:
        self.url = url
        self._guard = guard
        self._uploads = uploads
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="zeroconsolidate-journal")
        self._turn = threading.Lock()
        self._under_way: deque[Future[None]] = deque()
        self._text = read_journal(url)
        self._written_bytes = len(self._text)
        self.progress = progress_of(self._text)
        self._run = secrets.token_hex(8)

    def begin(self, *records: Mapping[str, Any]) -> None:
        """Write our name into it, and these records; what was there stays if the first of them is no beginning."""
        with self._turn:
            if records and "begin" in records[0]:
                self._text, self._written_bytes, self.progress = b"", 0, Progress()
            self._add({"run": self._run}, *records)
            self._write(self._text)

    def append(self, *records: Mapping[str, Any]) -> None:
        """Write records. What they state must be true of the store already. Any thread may call it.

        Raises OutputBusy if another run has written the journal since we did.
        """
        self.later(*records)
        self.wait()

    def later(self, *records: Mapping[str, Any]) -> None:
        """The same, but something else can be done meanwhile: `progress` has the records at once, and what writing them
        has raised is raised by the next call."""
        with self._turn:
            while self._under_way and self._under_way[0].done():
                self._under_way.popleft().result()
            self._add(*records)
            self._under_way.append(self._writer.submit(self._append, len(self._text)))

    def keep(self, *records: Mapping[str, Any]) -> None:
        """The same, but they are written with what :meth:`later` or :meth:`append` is called for next."""
        with self._turn:
            self._add(*records)

    @property
    def is_behind(self) -> bool:
        """Whether records are not written yet."""
        return self._written_bytes < len(self._text)

    def wait(self) -> None:
        """Wait until all is written that :meth:`later` was called for."""
        with self._turn:
            while self._under_way:
                self._under_way.popleft().result()

    def drain(self) -> None:
        """Wait until nothing is under way, whatever becomes of it."""
        with self._turn:
            while self._under_way:
                self._under_way.popleft().exception()

    def close(self) -> None:
        """End the thread that writes."""
        self._writer.shutdown()

    def _append(self, size_bytes: int) -> None:
        if size_bytes <= self._written_bytes:
            return  # it was written with what was added before
        self._guard()
        text = self._text  # with what has been added since
        if progress_of(read_journal(self.url)).run != self._run:
            raise OutputBusy(
                "another conversion has taken over this output", remedy="wait for it, or name another output"
            )
        self._write(text)

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
