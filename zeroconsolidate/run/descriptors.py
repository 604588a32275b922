"""An open file of this machine -> its bytes, in memory that is there."""

from __future__ import annotations

import mmap
import os

from .storage import ended_early


def fill_runs(fd: int, file: str, start: int, run_bytes: int, step_bytes: int, count: int, buffer: memoryview) -> None:
    """What `LocalFiles.read_runs` does, of an open file. When it returns nothing is mapped any more."""
    import numpy as np  # who asks for runs has imported it

    span_bytes = (count - 1) * step_bytes + run_bytes
    size_bytes = os.fstat(fd).st_size
    if start + span_bytes > size_bytes:
        raise ended_early(file, start + span_bytes, size_bytes)
    skipped = start % mmap.ALLOCATIONGRANULARITY
    mapped = mmap.mmap(fd, span_bytes + skipped, access=mmap.ACCESS_READ, offset=start - skipped)
    unit = next(n for n in (8, 4, 2, 1) if run_bytes % n == step_bytes % n == 0)
    span = np.frombuffer(mapped, f"u{unit}", count=span_bytes // unit, offset=skipped)
    runs = np.lib.stride_tricks.as_strided(span, (count, run_bytes // unit), (step_bytes, unit))
    np.frombuffer(buffer, span.dtype).reshape(runs.shape)[...] = runs


def fill(fd: int, start: int, buffer: memoryview) -> int:
    """Fill `buffer` from byte `start`; returns how many bytes there were. Raises OSError."""
    done = 0
    while done < len(buffer):
        got = _some(fd, start + done, buffer[done:])
        if not got:
            break
        done += got
    return done


if hasattr(os, "preadv"):

    def _some(fd: int, start: int, buffer: memoryview) -> int:
        return os.preadv(fd, [buffer], start)

else:  # macOS before 11

    def _some(fd: int, start: int, buffer: memoryview) -> int:
        data = os.pread(fd, len(buffer), start)
        buffer[: len(data)] = data
        return len(data)
