"""Calls of `progress` and `status` -> lines on stderr: what is being done, and how far it is.

On a terminal it is a bar of tqdm. Elsewhere it is a line now and then, so that a log shows that it goes on.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

from ..options import size_text
from .rows import time_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

    from .bar import Bar

FIRST_SECONDS = 0.5
"""Work that takes less time prints nothing on a terminal."""
REDRAW_SECONDS = 0.1
LINE_SECONDS = 30.0
"""Seconds between two lines where stderr is not a terminal."""
_STACK_BYTES = 1 << 19
"""A thread has a stack of 8 MiB by default, a fifth of all that a conversion takes."""


class Display:
    """Use it as a context manager: the bar is gone when the block ends. Nothing is printed if it is `hidden`."""

    def __init__(self, stream: TextIO, *, hidden: bool, doing: str = "reading metadata") -> None:
        self._stream = stream
        self._redraws = stream.isatty()
        self._thread = (
            None if hidden else threading.Thread(target=self._run, name="zeroconsolidate-progress", daemon=True)
        )
        self._ended = threading.Event()
        self._doing, self._done, self._total = doing, 0, 0
        self._since = time.monotonic()
        self._files: tuple[int, int] | None = None
        """How many files have been read, and of how many."""
        self._from: tuple[float, int] | None = None
        """When the first bytes were reported, and how many there were already."""

    def __enter__(self) -> Self:
        if self._thread is not None:
            before = threading.stack_size(_STACK_BYTES)
            # A limit on memory may leave no room for a thread; the work is not worth less without a display.
            with suppress(RuntimeError):
                self._thread.start()
            threading.stack_size(before)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread is not None and self._thread.ident is not None:
            self._thread.join()

    @property
    def status(self) -> Callable[[str], None] | None:
        """What to pass as `status`."""
        return None if self._thread is None else self._begin

    @property
    def progress(self) -> Callable[[int, int], None] | None:
        """What to pass as `progress`."""
        return None if self._thread is None else self._advance

    @property
    def files_read(self) -> Callable[[int, int], None] | None:
        """What to pass as `files_read`."""
        return None if self._thread is None else self._count

    @property
    def watching(self) -> dict[str, Any]:
        """All that a function takes which opens a checkpoint and may take a while."""
        return {
            "progress": self.progress,
            "status": self.status,
            "files_read": self.files_read,
        }

    def line(self, now: float) -> str:
        """What is being done, how far it is, and how long it takes; `now` as `time.monotonic` gives it."""
        if not self._total:
            return self._without_bytes(now)
        parts = [f"{self._doing} {size_text(self._done)} of {size_text(self._total)}, {self._percent:.0f} %"]
        began, there = self._from or (now, self._done)
        rate = (self._done - there) / (now - began) if now > began else 0
        if rate and now - began >= 1:
            parts.append(f"{size_text(round(rate))}/s")
            if self._done < self._total:
                parts.append(f"{time_text((self._total - self._done) / rate)} left")
        return ", ".join(parts)

    def _without_bytes(self, now: float) -> str:
        files = self._files
        if files is None:
            return f"{self._doing} ({now - self._since:.0f} s)"
        return f"{self._doing}, {files[0]:,} of {files[1]:,} files ({now - self._since:.0f} s)"

    @property
    def _percent(self) -> float:
        return 100 * self._done / self._total

    def _begin(self, doing: str) -> None:
        self._doing, self._since, self._files = doing, time.monotonic(), None

    def _count(self, done: int, total: int) -> None:
        self._files = (done, total)

    def _advance(self, done: int, total: int) -> None:
        self._done, self._total = done, total
        if self._from is None:
            self._from = (time.monotonic(), done)

    def _run(self) -> None:
        (self._draw if self._redraws else self._log)()

    def _log(self) -> None:
        """Lines for a log."""
        while not self._ended.wait(LINE_SECONDS):
            with suppress(OSError, ValueError):  # a stream that was closed
                self._stream.write(f"zeroconsolidate: {self.line(time.monotonic())}\n")
                self._stream.flush()

    def _draw(self) -> None:
        """A bar on a terminal, until the end."""
        bar: Bar | None = None
        wait = FIRST_SECONDS
        while not self._ended.wait(wait):
            wait = REDRAW_SECONDS
            with suppress(OSError, ValueError):  # a terminal that hung up
                bar = self._redrawn(bar)
        with suppress(OSError, ValueError):
            if bar is not None:
                bar.close()

    def _redrawn(self, bar: Bar | None) -> Bar:
        """The bar as things are now. Another takes its place when it is known how much there is to do."""
        from .bar import Bar

        done, total = self._done, self._total
        if bar is None or (total and bar.total != total):
            if bar is not None:
                bar.close()
            bar = Bar(self._stream, total=total, initial=self._from[1] if self._from else done)
        bar.show(self._doing if total else self._without_bytes(time.monotonic()), done)
        return bar
