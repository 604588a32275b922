"""A bar of tqdm. Imported when there is something to draw: most work is done before that."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from tqdm import tqdm

if TYPE_CHECKING:
    from typing import TextIO

_UNKNOWN = "{desc}"
_KNOWN = "{desc} {percentage:3.0f} %|{bar}| {n_fmt}B of {total_fmt}B [{elapsed}<{remaining}, {rate_fmt}]"
_COLUMNS = 80
"""Width of a terminal that does not state it."""


class Bar(tqdm):  # type: ignore[misc]
    """A bar that is redrawn when :meth:`show` is called, and leaves nothing behind when it is closed.

    `total`: bytes in all; 0 as long as that is not known. `initial`: what was done before it began, which does not
    count for the rate.
    """

    monitor_interval = 0
    """No thread of its own: ours redraws."""

    def __init__(self, stream: TextIO, *, total: int, initial: int) -> None:
        super().__init__(
            total=total,
            initial=initial,
            file=stream,
            leave=False,
            unit="B",
            unit_scale=True,
            ncols=_COLUMNS,
            nrows=20,  # else tqdm asks the terminal, and draws nothing on one that says 0
            bar_format=_KNOWN if total else _UNKNOWN,
            delay=1,  # or it would draw at once, before it is known what is being done
        )
        self.delay = 0
        self._stream = stream

    def show(self, doing: str, done: int) -> None:
        """Redraw: what is being done, and how many bytes of it."""
        self.ncols = self._columns
        self.n = done
        self.set_description_str(doing, refresh=False)
        self.refresh()

    @property
    def _columns(self) -> int:
        with suppress(OSError, ValueError):
            return (os.get_terminal_size(self._stream.fileno()).columns or _COLUMNS) - 1
        return _COLUMNS
