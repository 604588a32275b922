"""The state of a pickle while it is read: stack, marks, memo, and reads that stay inside its bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import DamagedFile

if TYPE_CHECKING:
    from mmap import mmap


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one pickle may cost."""

    steps: int = 1 << 24
    """Opcodes that are carried out. A tensor takes about 40, so this is a model of 400,000 tensors in one file."""
    open_marks: int = 1000
    """Containers that are begun and not ended: real pickles have a dozen."""
    integer_bytes: int = 255
    """Integers longer than this are refused: what is done with them later takes quadratic time."""


class World(Protocol):
    """What lies outside of the pickle."""

    def find(self, module: str, name: str) -> object:
        """What stands for a name that the pickle imports."""

    def call(self, function: object, arguments: tuple[object, ...]) -> object:
        """The result of a call of something that `find` or `call` returned, or of anything else: then an error."""

    def persistent(self, pid: object) -> object:
        """What a persistent id stands for."""


class Machine:
    """What the opcodes of a pickle in `data` work on."""

    def __init__(self, data: bytes | mmap, world: World, limits: Limits) -> None:
        self.data = data
        self.world = world
        self.limits = limits
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def skip(self, position: int, size_bytes: int) -> int:
        """The end of `size_bytes` bytes from `position`, which must be there."""
        stop = position + size_bytes
        if stop > len(self.data):
            raise beyond(stop, self.data)
        return stop

    def counted(self, position: int, width: int) -> tuple[bytes, int]:
        """A run of bytes whose length stands in front of it in `width` bytes, and its end."""
        start = self.skip(position, width)
        stop = self.skip(start, int.from_bytes(self.data[position:start], "little"))
        return self.data[start:stop], stop

    def integer(self, position: int, width: int) -> int:
        return int.from_bytes(self.data[position : self.skip(position, width)], "little")

    def above_mark(self) -> list[Any]:
        """Pop what was pushed since the last mark."""
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items


def beyond(stop: int, data: bytes | mmap) -> DamagedFile:
    """The error for a length that is more than there is."""
    return DamagedFile(
        "the pickle is cut off: it says that more bytes follow than there are",
        expected=f"{stop} bytes",
        found=len(data),
    )
