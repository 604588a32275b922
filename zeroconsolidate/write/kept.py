"""What the last check reads of files whose values are in a store only: kept in files of this machine that have holes.

    in the store    [ header | tensor ················ | tail ]       [ data.pkl | storages ········ | zip directory ]
    kept here       [ header |        (a hole)         | tail ]       [ data.pkl |     (a hole)      | zip directory ]

They are as long as those in the store, and take little room. What is kept is a copy of what was sent. Of what an
earlier run has sent, the plan knows header and tail, and of the copy of a file of the checkpoint that file has it.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..archive.load import load_file
from ..archive.names import FileKind, file_name, parse
from ..archive.regular import opened, read_errors
from ..archive.remote import ahead, merged
from ..errors import at
from ..options.urls import is_url
from ..plan.fragment import FragmentPlan
from ..plan.whole_file import WholeFilePlan
from .system import system_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ..archive.regular import Positioned
    from ..plan.layout import FilePlan

    Range = tuple[int, int]

_READ = (FileKind.MODEL, FileKind.PARTITIONED_MODEL, FileKind.LAYER, FileKind.EXPERT)
"""Copies of files of the checkpoint that are read when a universal checkpoint is opened."""
_NEAR_BYTES, _MOST_BYTES = 4 << 10, 8 << 20
"""Ranges within a block of the disk are kept as one."""


class Kept:
    """What is kept of the files of an output. `folder`: of this machine. Raises OutputFailed, and of files of the
    checkpoint that are read what :func:`.load.load_file` raises."""

    def __init__(self, folder: str, files: Sequence[FilePlan]) -> None:
        self._folder = folder
        self._files = {file.name: file for file in files}
        self._ranges: dict[str, list[Range]] = {}

    def path(self, name: str) -> str:
        """Where what is kept of the file `name` is."""
        return os.path.join(self._folder, "files", name)

    def begin(self) -> None:
        """Make the files, with their headers, and find out what else will be read."""
        with system_errors(self._folder):
            for name, plan in self._files.items():
                os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
                with open(self.path(name), "wb") as file:
                    file.write(plan.header)
                    file.truncate(plan.size_bytes)
        for name, plan in self._files.items():
            if isinstance(plan, FragmentPlan):
                self._ranges[name] = [(0, len(plan.header)), (plan.tail_start, plan.size_bytes)]
        copies = [plan for plan in self._files.values() if isinstance(plan, WholeFilePlan) and _is_read(plan)]
        remembered: dict[bytes, object] = {}
        for plan, opening in zip(copies, _opened(copies), strict=True):
            self._ranges[plan.name] = _read_of(plan, opening, remembered)

    @contextmanager
    def copying(self, name: str) -> Iterator[Callable[[memoryview, int], None] | None]:
        """What is to be given all bytes of a file, in any order, with their places; None if nothing is kept."""
        ranges = self._ranges.get(name)
        if not ranges:
            yield None
            return
        stops = [stop for _, stop in ranges]
        fd = self._open(name)

        def copy(data: memoryview, start: int) -> None:
            for index in range(bisect_left(stops, start + 1), len(ranges)):
                first, last = max(ranges[index][0], start), min(ranges[index][1], start + len(data))
                if first >= last:
                    return
                self._put(fd, data[first - start : last - start], first)

        try:
            yield copy
        finally:
            os.close(fd)

    def restore(self, name: str, crc32: int | None) -> None:
        """A file of which an earlier run has sent some or all. `crc32`: of the tensor of a fragment, if it is known."""
        plan = self._files[name]
        if isinstance(plan, FragmentPlan):
            if crc32 is not None:
                self._restore(name, [(plan.tail_start, plan.tail(crc32))])
        elif isinstance(plan, WholeFilePlan) and self._ranges.get(name):
            with at(name), read_errors(plan.source), closing(opened(plan.source)) as file:
                ranges = self._ranges[name]
                self._restore(name, ((start, file.pread(stop - start, start)) for start, stop in ranges))

    def _restore(self, name: str, pieces: Iterable[tuple[int, bytes]]) -> None:
        fd = self._open(name)
        try:
            for start, data in pieces:
                self._put(fd, memoryview(data), start)
        finally:
            os.close(fd)

    def _open(self, name: str) -> int:
        with system_errors(self._folder):
            return os.open(self.path(name), os.O_WRONLY | os.O_CLOEXEC)

    def _put(self, fd: int, data: memoryview, start: int) -> None:
        with system_errors(self._folder):
            while data:
                written = os.pwrite(fd, data, start)
                data, start = data[written:], start + written


def _is_read(plan: WholeFilePlan) -> bool:
    parsed = parse(file_name(plan.name))
    return parsed is not None and parsed[0] in _READ


def _opened(copies: Sequence[WholeFilePlan]) -> Iterator[Callable[[], Positioned] | None]:
    """What gives the open source of each. Those in a store are opened side by side."""
    if any(is_url(plan.source) for plan in copies):
        yield from ahead(lambda plan: opened(plan.source), copies)
    else:
        yield from (None for _ in copies)


def _read_of(
    plan: WholeFilePlan, opening: Callable[[], Positioned] | None, remembered: dict[bytes, object]
) -> list[Range]:
    """What is read of a file when it is opened, by opening the one it is a copy of."""
    parsed = parse(file_name(plan.name))
    assert parsed is not None  # noqa: S101  (only such files are asked for)
    watched: list[Watched] = []

    def watch() -> Positioned:
        watched.append(Watched(opening() if opening else opened(plan.source)))
        return watched[0]

    load_file(plan.source, *parsed, remembered, watch)
    return merged([each for file in watched for each in file.ranges], _NEAR_BYTES, _MOST_BYTES)


@dataclass(slots=True)
class Watched:
    """An open file that remembers what is read of it."""

    file: Positioned
    ranges: list[Range] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        return self.file.size_bytes

    @property
    def is_remote(self) -> bool:
        return self.file.is_remote

    def pread(self, size_bytes: int, start: int) -> bytes:
        self.ranges.append((start, start + size_bytes))
        return self.file.pread(size_bytes, start)

    def expect(self, ranges: Iterable[Range]) -> None:
        self.file.expect(ranges)

    def close(self) -> None:
        self.file.close()
