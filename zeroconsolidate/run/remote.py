"""Files in object stores as storage: large ranged requests that run ahead of the reader.

    extents that will be read, in the reader's order      e0 e1 e2 e3 e4 e5 | e6 e7 …
    put together by file, in batches                      a [e0 e2 e3 …]  b [e1 e4] …
    requests of at most PIECE_BYTES, many at a time       a0 a1 b0 b1 a2 …
    what has come, until the reader has taken all of it   a0 . b0 . . .

A request takes a while, however few bytes it brings. So whoever knows what it will read says so before
(:meth:`RemoteFiles.expecting`), and finds it there. Not more than WINDOW_BYTES are under way or wait for a reader. What
was not announced is read by requests side by side, while the reader waits.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..archive.remote import RemoteFile, side_by_side
from ..errors import DamagedFile
from .storage import Readable, ended_early

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Future

    from .storage import Extent

PIECE_BYTES = 4 << 20
"""The usual request, the longest is by an eighth longer: IN_FLIGHT of them are the window."""
WINDOW_BYTES = 128 << 20
"""What one reader has under way or waiting."""
_BATCH_BYTES = WINDOW_BYTES // 4
"""So much is sorted at a time, to find what lies side by side in one file."""
_SLACK_BYTES = PIECE_BYTES // 4
"""An extent that is longer than the rest of the batch by no more is not cut: what was left would be a request, too."""
_WASTE = 64
"""What lies between two extents is read with them if it is at most this fraction of what is read already."""
_NEAR_BYTES = 32 << 10
"""Runs that are not further apart are read with what is between them."""


class RemoteFiles(Readable):
    """Files by URL. Any number of threads may read.

    Raises DamagedFile for a file that has gone, is too short, or is another than when it was first read; StoreFailed.
    """

    def __init__(self) -> None:
        self._files: dict[str, RemoteFile] = {}
        self._turn = threading.Lock()
        self._ahead: list[_Ahead] = []

    def close(self) -> None:
        """Give up what has been read ahead."""
        with self._turn:
            ahead, self._ahead = self._ahead, []
        for each in ahead:
            each.close()

    def size_bytes(self, file: str) -> int:
        """The length of the file when it was first read."""
        return self._file(file).size_bytes

    def read_into(self, file: str, start: int, buffer: memoryview) -> None:
        """Fill `buffer` from byte `start` of the file."""
        stop, here = start + len(buffer), start
        size_bytes = self._file(file).size_bytes
        if stop > size_bytes:
            raise ended_early(file, stop, size_bytes)
        while here < stop:
            found = self._piece(file, here)
            if found is None:
                self._at_once(file, here, buffer[here - start :])
                return
            piece, data = found
            upto = min(piece.stop, stop)
            buffer[here - start : upto - start] = memoryview(data.result())[here - piece.start : upto - piece.start]
            piece.ahead.taken(piece, upto - here)
            here = upto

    def read_runs(
        self, file: str, start: int, *, run_bytes: int, step_bytes: int, count: int, buffer: memoryview
    ) -> None:
        """Fill `buffer` with `count` runs. Near each other, they are read with what lies between them."""
        if step_bytes - run_bytes > _NEAR_BYTES:
            super().read_runs(file, start, run_bytes=run_bytes, step_bytes=step_bytes, count=count, buffer=buffer)
            return
        together = max(PIECE_BYTES // step_bytes, 1)
        for first in range(0, count, together):
            runs = min(together, count - first)
            span = memoryview(bytearray((runs - 1) * step_bytes + run_bytes))
            self.read_into(file, start + first * step_bytes, span)
            for run in range(runs):
                here = (first + run) * run_bytes
                buffer[here : here + run_bytes] = span[run * step_bytes : run * step_bytes + run_bytes]

    @contextmanager
    def expecting(self, extents: Iterable[Extent]) -> Iterator[None]:
        """Until the end of the block, these will be read, in about this order."""
        ahead = _Ahead(iter(extents), self)
        with self._turn:
            self._ahead.append(ahead)
        try:
            ahead.go_on()
            yield
        finally:
            with self._turn:
                if ahead in self._ahead:
                    self._ahead.remove(ahead)
            ahead.close()

    def request(self, file: str, start: int, stop: int) -> Future[bytes | bytearray]:
        """These bytes, when they have come."""
        opened = self._file(file)
        if stop > opened.size_bytes:
            raise ended_early(file, stop, opened.size_bytes)
        return side_by_side(opened.request, start, stop)

    def _at_once(self, file: str, start: int, buffer: memoryview) -> None:
        cuts = range(start, start + len(buffer), PIECE_BYTES)
        coming = [(here, self.request(file, here, min(here + PIECE_BYTES, start + len(buffer)))) for here in cuts]
        for here, data in coming:
            part = data.result()
            buffer[here - start : here - start + len(part)] = part

    def _piece(self, file: str, position: int) -> tuple[_Piece, Future[bytes | bytearray]] | None:
        """What was requested ahead and has this byte."""
        with self._turn:
            ahead = list(self._ahead)
        for each in reversed(ahead):
            found = each.find(file, position)
            if found is not None:
                return found
        return None

    def _file(self, file: str) -> RemoteFile:
        known = self._files.get(file)
        if known is None:
            try:
                known = RemoteFile(file, ends=False)
            except (FileNotFoundError, IsADirectoryError):
                raise DamagedFile("the file cannot be read any more: it has gone", address=(file,)) from None
            known = self._files.setdefault(file, known)
        return known


class _Piece:
    """Bytes `[start, stop)` of a file, planned, and requested when there is room."""

    __slots__ = ("ahead", "data", "file", "left_bytes", "start", "stop")

    def __init__(self, file: str, start: int, stop: int, left_bytes: int, ahead: _Ahead) -> None:
        self.file, self.start, self.stop = file, start, stop
        self.left_bytes = left_bytes
        """How much of it the reader has not taken yet."""
        self.data: Future[bytes | bytearray] | None = None
        self.ahead = ahead


class _Ahead:
    """What one reader has announced, and how much of it has been requested."""

    def __init__(self, extents: Iterator[Extent], files: RemoteFiles) -> None:
        self._extents, self._files = extents, files
        self._turn = threading.RLock()
        self._pieces: dict[str, list[_Piece]] = {}
        """By file, those that are not taken, by their place in it."""
        self._waiting: deque[_Piece] = deque()
        """Those that are not requested, in the reader's order."""
        self._held_bytes = 0
        self._is_over = False
        self._rest: Extent | None = None

    def close(self) -> None:
        """Give up what was not taken."""
        with self._turn:
            self._is_over = True
            for pieces in self._pieces.values():
                for piece in pieces:
                    if piece.data is not None:
                        piece.data.cancel()
            self._pieces.clear()
            self._waiting.clear()

    def find(self, file: str, position: int) -> tuple[_Piece, Future[bytes | bytearray]] | None:
        """The piece with this byte, requested. A reader that is further than was looked ahead takes the next batches
        along."""
        with self._turn:
            for _ in range(1 + WINDOW_BYTES // _BATCH_BYTES):
                pieces = self._pieces.get(file, [])
                index = bisect_right(pieces, position, key=lambda piece: piece.start) - 1
                if index >= 0 and position < pieces[index].stop:
                    return pieces[index], self._requested(pieces[index])
                if self._is_over:
                    return None
                self._plan_batch()
        return None

    def taken(self, piece: _Piece, size_bytes: int) -> None:
        """So many bytes of a piece have been read."""
        with self._turn:
            piece.left_bytes -= size_bytes
            if piece.left_bytes > 0:
                return
            pieces = self._pieces.get(piece.file, [])
            if piece in pieces:
                pieces.remove(piece)
                self._held_bytes -= piece.stop - piece.start
        self.go_on()

    def go_on(self) -> None:
        """Request what has room."""
        with self._turn:
            while self._waiting or not self._is_over:
                if not self._waiting:
                    self._plan_batch()
                    continue
                piece = self._waiting[0]
                if piece.data is None and self._held_bytes + piece.stop - piece.start > WINDOW_BYTES:
                    return
                self._requested(self._waiting.popleft())

    def _requested(self, piece: _Piece) -> Future[bytes | bytearray]:
        if piece.data is None:
            piece.data = self._files.request(piece.file, piece.start, piece.stop)
            self._held_bytes += piece.stop - piece.start
        return piece.data

    def _plan_batch(self) -> None:
        """Plan the next extents, those that lie side by side together, what is needed first before the rest."""
        batch: dict[str, list[tuple[int, int]]] = {}
        room = _BATCH_BYTES
        while room > 0:
            extent = next(self._extents, None) if self._rest is None else self._rest
            self._rest = None
            if extent is None:
                self._is_over = True
                break
            file, start, stop = extent
            if stop - start > room + _SLACK_BYTES:
                self._rest = (file, start + room, stop)
                stop = start + room
            room -= stop - start
            if start < stop:
                batch.setdefault(file, []).append((start, stop))
        for file, extents in batch.items():
            planned = [_Piece(file, *each, self) for each in put_together(extents)]
            self._waiting += planned
            self._pieces[file] = sorted([*self._pieces.get(file, ()), *planned], key=lambda piece: piece.start)


def put_together(extents: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Extents of one file -> `(start, stop, needed_bytes)` of the requests that bring them, by their place.

    What lies between two is requested if that is next to nothing beside what is needed. Those that touch each other are
    cut where it suits the requests; those that overlap are requested once.

    >>> put_together([(1000, 2000), (0, 1000)])
    [(0, 2000, 2000)]
    """
    found: list[tuple[int, int, int]] = []
    for start, stop in sorted(extents):
        needed_bytes = stop - start
        if found:
            first, last, before = found[-1]
            is_near = start - last <= (last - first) // _WASTE
            is_next = start == last and before == last - first
            if start < last or is_next or (is_near and stop - first <= PIECE_BYTES):
                found[-1] = (first, max(last, stop), before + needed_bytes)
                continue
        found.append((start, stop, needed_bytes))
    return [part for each in found for part in _cut(*each)]


def _cut(start: int, stop: int, needed_bytes: int) -> Iterator[tuple[int, int, int]]:
    """A request in parts of about PIECE_BYTES, all alike: a small rest would take as long as a large one. Only extents
    that touch each other are longer: all of it is needed."""
    count = -(-(stop - start) * 8 // (PIECE_BYTES * 9))
    if count <= 1:
        yield start, stop, needed_bytes
        return
    part_bytes = -(-(stop - start) // count)
    for here in range(start, stop, part_bytes):
        upto = min(here + part_bytes, stop)
        yield here, upto, upto - here
