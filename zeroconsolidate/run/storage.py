"""What a storage must be able to do, to be read from or written to.

Files are named by strings that only their storage understands. The local file system is `local.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


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
