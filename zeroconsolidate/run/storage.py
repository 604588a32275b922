"""What a storage must be able to do, to be read from or written to.

Files are named by strings that only their storage understands. The local file system is `local.py`, object stores are
`remote.py`; `files.py` knows which of the two a name means.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol, TypeAlias

from ..errors import DamagedFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ..plan.pieces import Copy

Extent: TypeAlias = "tuple[str, int, int]"
"""(file, start, stop): bytes `[start, stop)` of an input file."""


class Readable(Protocol):
    """Files that are read, by name. Any number of threads may read at the same time.

    Raises DamagedFile for a file that cannot be read, or ends before what is asked for.
    """

    def size_bytes(self, file: str) -> int:
        """The length of a file."""

    def read_into(self, file: str, start: int, buffer: memoryview) -> None:
        """Fill `buffer` (bytes) from byte `start` of the file."""

    def read_runs(
        self, file: str, start: int, *, run_bytes: int, step_bytes: int, count: int, buffer: memoryview
    ) -> None:
        """Fill `buffer` with `count` runs laid end to end, each of which begins `step_bytes` after the one before.

        By default one read for each run.
        """
        for index in range(count):
            self.read_into(file, start + index * step_bytes, buffer[index * run_bytes : (index + 1) * run_bytes])

    def expecting(self, extents: Iterable[Extent]) -> AbstractContextManager[None]:
        """Until the end of the block, these will be read, in about this order.

        By default nothing follows from it, and they are not gone through.
        """
        return nullcontext()


class Writable(Protocol):
    """A file that is written, from where the run begins to its end. Raises OutputFailed."""

    def write(self, data: bytes | memoryview, start: int) -> None:
        """All of `data` at byte `start`."""

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill `buffer` from byte `start`, with what has been written there. Others may write behind it meanwhile."""

    def copy_from(self, source: Readable, file: str, file_start: int, size_bytes: int, start: int) -> int:
        """Bytes from `file_start` of an input file to byte `start`, in a better way than through a block of memory.

        Returns how many have been copied: at most `size_bytes`, and 0 where there is no better way. Then all that is
        left is read and written.
        """
        return 0


def extents(copies: Iterable[Copy]) -> Iterator[Extent]:
    """What is read for copies. Runs that are apart are left out: they are read as they come."""
    for copy in copies:
        if copy.count == 1 or copy.file_step == copy.run_numel:
            yield copy.file, copy.file_start, copy.file_start + copy.nbytes


def ended_early(file: str, expected: int, got: int) -> DamagedFile:
    """The error for a file that is shorter than its own directory says."""
    return DamagedFile("the file ends too early", expected=f"at least {expected} bytes", found=got, address=(file,))


def copy_range(
    source: Readable,
    file: str,
    file_start: int,
    size_bytes: int,
    target: Writable,
    start: int,
    *,
    block: memoryview,
    reached: Callable[[int], None],
) -> None:
    """`size_bytes` bytes of an input file from `file_start`, to byte `start` of the output; `reached(n)` on the way.

    What the pair cannot do by itself passes through `block`.
    """
    done = 0
    while done < size_bytes:
        got = target.copy_from(source, file, file_start + done, size_bytes - done, start + done)
        if not got:
            break
        done += got
        reached(start + done)
    while done < size_bytes:
        part = block[: min(len(block), size_bytes - done)]
        source.read_into(file, file_start + done, part)
        target.write(part, start + done)
        done += len(part)
        reached(start + done)
