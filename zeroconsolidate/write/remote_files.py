"""The small files of an output in a store: kept on this machine for the last check, and staged in the store."""

from __future__ import annotations

import os
from collections import deque
from contextlib import closing
from typing import TYPE_CHECKING

from ..archive.regular import opened, read_errors
from ..errors import at
from .remote_publish import staged

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

    from ..integrations.object_uploads import Uploads

_COPIED_BYTES = 32 << 20


class SmallFiles:
    """Files that are written whole. Raises OutputFailed, and StoreFailed for a file that
    could not be sent, when a later one is, or by :meth:`wait`.

    `folder`: of this machine. `pool` sends as many at a time as the store takes.
    """

    def __init__(self, folder: str, output: str, uploads: Uploads, pool: ThreadPoolExecutor) -> None:
        self._folder, self._output = folder, output
        self._uploads, self._pool = uploads, pool
        self._under_way: deque[Future[None]] = deque()

    def path(self, name: str) -> str:
        """Where what is kept here of the file `name` is."""
        return os.path.join(self._folder, "files", name)

    def write(self, name: str, data: bytes) -> None:
        """A file, whole."""
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
        self._send(name, data)

    def copy(self, name: str, source: str) -> None:
        """A file of the checkpoint or the base model, byte for byte."""
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with read_errors(source), closing(opened(source)) as there, open(path, "wb") as file:
            for start in range(0, there.size_bytes, _COPIED_BYTES):
                file.write(there.pread(min(_COPIED_BYTES, there.size_bytes - start), start))
        with open(path, "rb") as file:
            self._send(name, file.read())

    def wait(self) -> None:
        """Wait until the store has all of them."""
        while self._under_way:
            self._under_way.popleft().result()

    def drain(self) -> None:
        """Wait until nothing is under way, whatever becomes of it."""
        while self._under_way:
            left = self._under_way.popleft()
            if not left.cancel():
                left.exception()

    def _send(self, name: str, data: bytes) -> None:
        while len(self._under_way) >= self._uploads.objects_in_flight:
            self._under_way.popleft().result()
        self._under_way.append(self._pool.submit(self._sent, name, data))

    def _sent(self, name: str, data: bytes) -> None:
        with at(name):
            self._uploads.put(staged(self._output, name), data)
