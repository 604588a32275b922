"""A store in memory, `counted://`, that knows what was asked of it and can be told to fail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class CountedFileSystem(MemoryFileSystem):
    """Records ranges; `before` is called with each, and may raise."""

    protocol = "counted"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    ranges: ClassVar[list[tuple[str, int, int]]] = []
    before: Callable[[str, int, int], None] = staticmethod(lambda *_: None)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return MemoryFileSystem._strip_protocol(path.removeprefix("counted://"))

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **how: Any) -> bytes:
        CountedFileSystem.ranges.append((path, start, end))
        CountedFileSystem.before(path, start, end)
        return super().cat_file(path, start=start, end=end, **how)

    @classmethod
    def clear(cls) -> None:
        cls.store.clear()
        cls.pseudo_dirs[:] = [""]
        cls.ranges.clear()
        cls.before = staticmethod(lambda *_: None)

    @classmethod
    def requested_bytes(cls, path: str = "") -> int:
        return sum(stop - start for file, start, stop in cls.ranges if path in file)


# By name: pytest, which looks for doctests here, imports this file a second time under another one.
fsspec.register_implementation("counted", "counted_store.CountedFileSystem", clobber=True)


def put(folder: Path, name: str) -> str:
    """A copy of a directory in the store; returns its URL."""
    files = fsspec.filesystem("counted")
    for file in folder.rglob("*"):
        if file.is_file():
            files.pipe_file(f"/{name}/{file.relative_to(folder)}", file.read_bytes())
    return f"counted://{name}"
