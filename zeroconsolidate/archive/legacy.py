"""torch's container from before 1.6, written with `checkpoint_serialization: false` -> its pickle and storages.

Five pickles one after another, then the storages, nothing aligned:

    magic number | protocol version | {little_endian, …} | the object | [storage keys]
    count of key 0 (int64) | elements of key 0 | count of key 1 | elements of key 1 | …

The keys give the order of the blocks; the size of an element is only known from the storage's class in the object's
persistent ids. So the object is read twice: once to learn the sizes, once with the storages in their places (mirrors
`_legacy_save` and `_legacy_load` in torch `torch/serialization.py`).
"""

from __future__ import annotations

import mmap
import os

from ..errors import DamagedFile, UnsupportedLayout
from .container import MAX_PICKLE_BYTES, ZipContainer
from .interpreter import Interpreter, broken_pickles
from .machine import Limits
from .printable import described
from .regular import OpenFile, open_regular
from .unpickle import World

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001


class LegacyContainer(OpenFile):
    """An open container without a directory; use it as a context manager, like :class:`~.container.ZipContainer`.

    Raises DamagedFile if the file is truncated or no such container.
    """

    form = "torch legacy"

    def _begin(self) -> None:
        self._data = mmap.mmap(self._fd, min(self.size_bytes, MAX_PICKLE_BYTES), access=mmap.ACCESS_READ)
        with broken_pickles("the file"):
            self.big_endian, self._pickle, self._starts = self._survey()

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
            raise DamagedFile("the list of storages is not that of the storages in the pickle")
        starts = {}
        for key in keys:
            count = int.from_bytes(self.pread(8, here), "big" if big_endian else "little", signed=True)
            storage = world.storages[key]
            if count != storage.numel:
                raise DamagedFile(
                    f"the storage {described(key)} is not of the size the pickle says",
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


def open_container(path: str) -> ZipContainer | LegacyContainer:
    """The container at `path`, of the kind that its first bytes say. Raises what the two raise."""
    fd = open_regular(path)
    try:
        head = os.pread(fd, 2, 0)
    finally:
        os.close(fd)
    return LegacyContainer(path) if head[:1] == b"\x80" else ZipContainer(path)
