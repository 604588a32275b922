"""The journal of an output in a store: the records of :mod:`.journal`, in an object that is written again as a whole.

It is rewritten at most every few seconds, and always before something becomes visible. Whoever has written it last is
the one who works on the output: a run that finds another's name in it stops.
"""

from __future__ import annotations

import secrets
import threading
from typing import TYPE_CHECKING, Any

from ..archive.places import exists, look_anew
from ..archive.regular import read_small
from ..errors import OutputBusy
from .journal import MAX_BYTES, Progress, encoded, progress_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..integrations.object_uploads import Uploads


class RemoteJournal:
    """The journal at a URL. Raises StoreFailed, and OutputBusy if another run has taken the output over."""

    def __init__(self, url: str, uploads: Uploads) -> None:
        self.url = url
        self._uploads = uploads
        self._turn = threading.Lock()
        self._text = read_journal(url)
        self.progress = progress_of(self._text)
        self._run = secrets.token_hex(8)

    def begin(self, *records: Mapping[str, Any]) -> None:
        """Write our name into it, and these records; what was there stays if the first of them is no beginning."""
        with self._turn:
            if records and "begin" in records[0]:
                self._text, self.progress = b"", Progress()
            self._add({"run": self._run}, *records)
            self._write()

    def append(self, *records: Mapping[str, Any]) -> None:
        """Write records. What they state must be true of the store already. Any thread may call it.

        Raises OutputBusy if another run has written the journal since we did.
        """
        with self._turn:
            if progress_of(read_journal(self.url)).run != self._run:
                raise OutputBusy(
                    "another conversion has taken over this output", remedy="wait for it, or name another output"
                )
            self._add(*records)
            self._write()

    def _add(self, *records: Mapping[str, Any]) -> None:
        for record in records:
            self.progress.take(record)
        self._text += encoded(*records)

    def _write(self) -> None:
        self._uploads.put(self.url, self._text)


def read_journal(url: str) -> bytes:
    """The content of the journal, empty if there is none."""
    look_anew([url])
    return read_small(url, MAX_BYTES) if exists(url) else b""
