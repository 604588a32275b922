"""Files of this machine that are read: opened when they are needed, and never something else than they were."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from contextlib import contextmanager, nullcontext
from types import MappingProxyType
from typing import TYPE_CHECKING

from ..archive.places import look_of
from ..archive.regular import open_regular
from ..errors import DamagedFile, reason
from ..options.mapped import EVERYTHING_HERE
from .ahead import Ahead
from .descriptors import fill, fill_runs
from .page_cache import Trail, drop_file
from .storage import Readable, ended_early

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from types import TracebackType

    from typing_extensions import Self

    from ..options.mapped import Mapped
    from .storage import Extent

MAX_OPEN = 256
"""Open input files at a time: a thousand ranks must fit under the usual limit of 1,024 descriptors."""
NOTHING_KNOWN: Mapping[str, Mapping[str, int | str]] = MappingProxyType({})
"""Of no file is it known what it looked like before."""


class LocalFiles(Readable):
    """Files by path, the least recently used closed first. Use it as a context manager.

    `places`: where this machine sees what is called otherwise elsewhere. `drop_cache`: the page cache does not keep
    what is read. `known`: what files looked like when it was decided where in them values are; to read one that has
    changed is an error, as its values may be of another save.
    """

    def __init__(
        self,
        places: Mapped = EVERYTHING_HERE,
        *,
        drop_cache: bool = False,
        known: Mapping[str, Mapping[str, int | str]] = NOTHING_KNOWN,
    ) -> None:
        self._places = places
        self._known = known
        self._trails: dict[str, Trail] | None = {} if drop_cache else None
        self._open: OrderedDict[str, Opened] = OrderedDict()
        self._ahead: list[Ahead] = []
        self._turn = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close all files. Call this when nothing reads them any more."""
        while self._open:
            self._open.popitem()[1].close()
        while self._trails:
            path, trail = self._trails.popitem()
            drop_file(self._places.seen(path), trail)

    def size_bytes(self, file: str) -> int:
        """The length of the file as it is now."""
        return os.fstat(self.opened(file).fd).st_size

    def read_into(self, file: str, start: int, buffer: memoryview) -> None:
        """Fill `buffer` from byte `start` of the file."""
        opened = self.opened(file)
        try:
            got = fill(opened.fd, start, buffer)
        except OSError as error:
            raise DamagedFile(f"the file cannot be read: {reason(error)}", address=(file,)) from None
        self.refuse_changed(file, opened)
        if got < len(buffer):
            raise ended_early(file, start + len(buffer), start + got)
        self.has_read(file, opened, start, start + got)

    def read_runs(
        self, file: str, start: int, *, run_bytes: int, step_bytes: int, count: int, buffer: memoryview
    ) -> None:
        """Fill `buffer` with `count` runs."""
        opened = self.opened(file)
        try:
            fill_runs(opened.fd, file, start, run_bytes, step_bytes, count, buffer)
        except OSError as error:
            raise DamagedFile(f"the file cannot be read: {reason(error)}", address=(file,)) from None
        finally:
            self.refuse_changed(file, opened)  # which also explains that it has become too short
        self.has_read(file, opened, start, start + (count - 1) * step_bytes + run_bytes)

    def expecting(self, extents: Iterable[Extent]) -> AbstractContextManager[None]:
        """Until the end of the block, these will be read, in about this order: the kernel is asked for them early."""
        if not hasattr(os, "posix_fadvise"):  # macOS and Windows have none
            return nullcontext()
        return self._asking(Ahead(extents, lambda path: self.opened(path).fd))

    @contextmanager
    def _asking(self, asking: Ahead) -> Iterator[None]:
        self._ahead.append(asking)
        try:
            yield
        finally:
            self._ahead.remove(asking)

    def has_read(self, file: str, opened: Opened, start: int, stop: int) -> None:
        """Bytes `[start, stop)` of the file have been read."""
        for asking in self._ahead[-1:]:
            asking.has_read(stop - start)
        if self._trails is not None:
            with self._turn:
                self._trails.setdefault(file, Trail(start)).touched(opened.fd, start, stop)

    def refuse_changed(self, file: str, opened: Opened) -> None:
        """Raise DamagedFile if an open file is no longer what it was known to be. Asked after each read: a file that is
        written in place is the same file, and stays open."""
        known = self._known.get(file)
        if known is not None and look_of(os.fstat(opened.fd)) != known:
            raise DamagedFile(
                "the file was changed while it was being read",
                consequence="its values may be of another save than its metadata",
                remedy="wait until nothing writes to it, and begin again; convert with --restart",
                address=(file,),
            )

    def opened(self, path: str) -> Opened:
        """The open file. It stays open for as long as it is held, even if MAX_OPEN others are asked for meanwhile."""
        with self._turn:
            known = self._open.get(path)
            if known is not None:
                self._open.move_to_end(path)
                return known
            while len(self._open) >= MAX_OPEN:
                known_as, left = self._open.popitem(last=False)
                if self._trails and known_as in self._trails:
                    # Who still holds it can go on reading; or it is opened again, and read from where it was left.
                    self._trails[known_as].pause(left.fd)
            try:
                opened = Opened(self._places.seen(path))
            except OSError as error:
                raise DamagedFile(f"the file cannot be read any more: {reason(error)}", address=(path,)) from None
            self._open[path] = opened
            return opened


class Opened:
    """A descriptor that is closed when this object is not held any more: a number that is closed under a reader may be
    another file's a moment later."""

    __slots__ = ("__weakref__", "close", "fd")

    def __init__(self, path: str) -> None:
        self.fd = open_regular(path)
        self.close = weakref.finalize(self, os.close, self.fd)
