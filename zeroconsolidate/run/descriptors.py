"""An open file of this machine -> its bytes, in memory that is there.

Nothing is mapped: a file that another process cuts short under a mapping ends this one with SIGBUS, without a word.
"""

from __future__ import annotations

import os

from .storage import ended_early

SPAN_BYTES = 1 << 20
"""So much is read at a time of runs that lie close together, with what is between them."""
_FAR_BYTES = 1 << 14
"""Runs with more than this between them are read one by one: about what is copied in the time of a system call."""


def fill_runs(fd: int, file: str, start: int, run_bytes: int, step_bytes: int, count: int, buffer: memoryview) -> None:
    """What `LocalFiles.read_runs` does, of an open file. Raises DamagedFile if it ends too early, and OSError."""
    span_bytes = (count - 1) * step_bytes + run_bytes
    size_bytes = os.fstat(fd).st_size
    if start + span_bytes > size_bytes:
        raise ended_early(file, start + span_bytes, size_bytes)
    is_far = step_bytes - run_bytes > _FAR_BYTES
    # Of an expanded tensor every run is the same bytes: the step is 0.
    together = 1 if is_far or not step_bytes else max(1, SPAN_BYTES // step_bytes)
    block = memoryview(bytearray(min(together, count) * step_bytes if together > 1 else 0))
    for first in range(0, count, together):
        some = min(together, count - first)
        target = buffer[first * run_bytes : (first + some) * run_bytes]
        span = target if some == 1 else block[: (some - 1) * step_bytes + run_bytes]
        here = start + first * step_bytes
        got = fill(fd, here, span)
        if got < len(span):
            raise ended_early(file, start + span_bytes, here + got)
        if some > 1:
            _pick(span, run_bytes, step_bytes, some, target)


def _pick(span: memoryview, run_bytes: int, step_bytes: int, count: int, target: memoryview) -> None:
    """The runs of `span`, end to end."""
    import numpy as np  # who asks for runs has imported it

    unit = next(n for n in (8, 4, 2, 1) if run_bytes % n == step_bytes % n == 0)
    elements = np.frombuffer(span, f"u{unit}")
    runs = np.lib.stride_tricks.as_strided(elements, (count, run_bytes // unit), (step_bytes, unit))
    np.frombuffer(target, elements.dtype).reshape(runs.shape)[...] = runs


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
