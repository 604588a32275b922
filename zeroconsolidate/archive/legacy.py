"""torch's container from before 1.6, written with `checkpoint_serialization: false` -> its pickle and storages.

Five pickles one after another, then the storages, nothing aligned:

    magic number | protocol version | {little_endian, …} | the object | [storage keys]
    count of key 0 (int64) | elements of key 0 | count of key 1 | elements of key 1 | …

The keys give the order of the blocks; the size of an element is only known from the storage's class in the object's
persistent ids. So the object is read twice: once to learn the sizes, once with the storages in their places (mirrors
`_legacy_save` and `_legacy_load` in torch `torch/serialization.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import DamagedFile, UnsupportedLayout
from .container import MAX_PICKLE_BYTES, ZipContainer
from .interpreter import Interpreter, broken_pickles
from .machine import Limits
from .printable import described
from .regular import OpenFile, opened
from .unpickle import World

if TYPE_CHECKING:
    from .regular import Positioned

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
_PICKLES = 5
_FIRST_BYTES = 1 << 20
"""What is read of a file to find them."""


class LegacyContainer(OpenFile):
    """An open container without a directory; use it as a context manager, like :class:`~.container.ZipContainer`.

    Raises DamagedFile if the file is truncated or no such container.
    """

    form = "torch legacy"

    def _begin(self) -> None:
        self._data = self._pickles(min(self.size_bytes, MAX_PICKLE_BYTES))
        with broken_pickles("the file"):
            self.big_endian, self._pickle, self._starts = self._survey()

    def _pickles(self, most_bytes: int) -> bytes:
        """So much of the beginning of the file as the five pickles take: where they end, only reading them tells."""
        size_bytes = _FIRST_BYTES
        while size_bytes < most_bytes:
            data = self.pread(size_bytes, 0)
            try:
                machine, here = Interpreter(data, World(_Placeless(), size_bytes), Limits()), 0
                for _ in range(_PICKLES):
                    _, here = machine.run(here)
            except DamagedFile:
                size_bytes *= 16
            else:
                return data
        return self.pread(most_bytes, 0)

    def read_pickle(self) -> bytes:
        """The bytes of the object's pickle."""
        start, stop = self._pickle
        return self._data[start:stop]

    def storage(self, key: str, size_bytes: int) -> int:
        """The byte at which the elements of storage `key` begin."""
        if key not in self._starts:
            raise DamagedFile(f"the container has no storage {described(key)}")
        return self._starts[key]

    def _survey(self) -> tuple[bool, tuple[int, int], dict[str, int]]:
        """(big-endian, extent of the object's pickle, start of each storage)."""
        world = World(_Placeless(), len(self._data))
        machine = Interpreter(self._data, world, Limits())
        magic, here = machine.run()
        if magic != MAGIC:
            raise DamagedFile(
                "the file is not a torch checkpoint: it is neither a zip archive nor torch's older container"
            )
        protocol, here = machine.run(here)
        if protocol != PROTOCOL:
            raise UnsupportedLayout(
                f"torch's older container has the protocol {described(protocol)}", expected=PROTOCOL
            )
        system, first = machine.run(here)
        big_endian = isinstance(system, dict) and system.get("little_endian") is False
        _, stop = machine.run(first)
        keys, here = machine.run(stop)
        named = isinstance(keys, list) and all(type(key) is str for key in keys)
        if not isinstance(keys, list) or not named or sorted(keys) != sorted(world.storages):
            raise DamagedFile("the list of storages does not match the storages in the pickle")
        starts = {}
        for key in keys:
            count = int.from_bytes(self.pread(8, here), "big" if big_endian else "little", signed=True)
            storage = world.storages[key]
            if count != storage.numel:
                raise DamagedFile(
                    f"the storage {described(key)} does not have the size that the pickle says",
                    expected=f"{storage.numel} elements",
                    found=count,
                )
            starts[key] = here + 8
            here += 8 + count * storage.dtype.itemsize
        if here != self.size_bytes:
            what = "the file is truncated" if here > self.size_bytes else "the file has bytes after its end"
            raise DamagedFile(f"{what}", expected=f"{here} bytes", found=self.size_bytes)
        return big_endian, (first, stop), starts


class _Placeless:
    """Stands for the container while its storages have no places yet."""

    path = ""
    big_endian = False

    def storage(self, key: str, size_bytes: int) -> int:
        return 0

    def pread(self, size_bytes: int, start: int) -> bytes:
        return bytes(size_bytes)


def open_container(path: str, file: Positioned | None = None) -> ZipContainer | LegacyContainer:
    """The container at `path`, of the kind that its first bytes say. Raises what the two raise. `file`: the open file,
    if it has been opened before."""
    if file is None:
        file = opened(path)
    try:
        head = file.pread(min(2, file.size_bytes), 0)
    except BaseException:
        file.close()
        raise
    return LegacyContainer(path, file) if head[:1] == b"\x80" else ZipContainer(path, file)
