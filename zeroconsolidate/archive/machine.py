"""The state of a pickle while it is read: stack, marks, memo, and reads that stay inside its bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import DamagedFile
from .inert import Inert, PlainDict

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one pickle may cost."""

    steps: int = 1 << 24
    """Opcodes that are carried out. A tensor takes about 40, so this is a model of 400,000 tensors in one file."""
    open_marks: int = 1000
    """Containers that are begun and not ended, and containers in containers: real pickles have a dozen."""
    free_containers: int = 4096
    """So many are allowed for a pickle of any size; more only if it has bytes for each of them
    (:meth:`Machine.begin`)."""
    integer_bytes: int = 255
    """Integers longer than this are refused: what is done with them later takes quadratic time."""


INERT = 3
"""An object counts as so many containers: it takes as much memory, and as many bytes in a pickle."""
CONTAINERS = frozenset((tuple, list, dict, PlainDict, Inert))
"""The types of what a pickle can put things in."""
_FLAT = (1, None)


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

    def __init__(self, data: bytes, world: World, limits: Limits) -> None:
        self.data = data
        self.world = world
        self.limits = limits
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.most = self.made = 0
        """How many containers there may be, and how many there are of those that the table of opcodes makes."""
        self._depths: dict[int, tuple[int, object]] = {}
        """By id, how deep a container is that holds others. The object is kept, so that its id stays its own."""

    def begin(self, start: int) -> None:
        """For the pickle that begins at byte `start`.

        It sets how many containers the pickle may make, by its size. Before protocol 4, a pickler writes at least six
        bytes for a container (from the 257th on: the opcode, and its place in the memo). Later protocols need only two,
        but a container takes 50 bytes and more in memory, so four are demanded: an empty one is never alone.
        """
        self.stack, self.marks, self.memo, self._depths = [], [], {}, {}
        is_old = self.data[start + 1 : start + 2] < b"\x04"
        self.made, self.most = 0, self.limits.free_containers + (len(self.data) - start) // (6 if is_old else 4)

    def count(self, many: int = 1) -> None:
        """One more container, or one that is as large as `many`. Raises DamagedFile if they are too many."""
        self.made += many
        if self.made > self.most:
            raise self.too_many()

    def too_many(self) -> DamagedFile:
        return DamagedFile(f"the pickle makes more than {self.most} containers", expected="fewer for its size")

    def nest(self, target: object, items: Iterable[object]) -> None:
        """`target` holds `items` now, and they are few, or have just been on the stack: a pickle must not have the same
        many items examined again and again. Raises DamagedFile if it is too deep."""
        depth = 1
        for item in items:
            if type(item) in CONTAINERS:
                depth = max(depth, 1 + self._depth(item))
        self.lay(target, depth)

    def wrap(self, target: object, arguments: tuple[object, ...]) -> None:
        """`target` is what a call with these arguments has made. Raises DamagedFile if it is too deep."""
        self.lay(target, self._depth(arguments))

    def lay(self, target: object, depth: int) -> None:
        """Record that `target` is at least so deep."""
        if depth > self.limits.open_marks:
            raise DamagedFile(f"the pickle is nested deeper than {self.limits.open_marks} levels")
        if depth > (2 if type(target) is tuple else 1) and depth > self._depths.get(id(target), _FLAT)[0]:
            self._depths[id(target)] = (depth, target)

    def _depth(self, item: object) -> int:
        """Nearly all tuples of a checkpoint are sizes and arguments: they are not written down before the third level.

        Those of more than three items are taken for nested. A pickler writes them with a mark, and with what they hold
        they take ten bytes each: they cannot make a small file deep.
        """
        known = self._depths.get(id(item))
        if known is not None:
            return known[0]
        is_flat = type(item) is not tuple or (len(item) <= 3 and CONTAINERS.isdisjoint(map(type, item)))
        return 1 if is_flat else 2

    def skip(self, position: int, size_bytes: int) -> int:
        """The end of `size_bytes` bytes from `position`, which must be there."""
        stop = position + size_bytes
        if stop > len(self.data):
            raise beyond(stop, self.data)
        return stop

    def counted(self, position: int, width: int) -> tuple[bytes, int]:
        """A run of bytes that follows its own length, stated in `width` bytes; and its end."""
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


def beyond(stop: int, data: bytes) -> DamagedFile:
    """The error for a length that is more than there is."""
    return DamagedFile(
        "the pickle is cut off: it says that more bytes follow than there are",
        expected=f"{stop} bytes",
        found=len(data),
    )
