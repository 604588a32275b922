"""A bar of tqdm. Imported when there is something to draw: most work is done before that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tqdm import tqdm

if TYPE_CHECKING:
    from typing import TextIO

_UNKNOWN = "{desc}"
_KNOWN = "{desc} {percentage:3.0f} %|{bar}| {n_fmt} of {total_fmt} [{elapsed}<{remaining}, {rate_fmt}]"
_WIDTH_UNKNOWN = 80


class Bar(tqdm):  # type: ignore[type-arg]
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
            dynamic_ncols=True,
            unit="B",
            unit_scale=True,
            bar_format=_KNOWN if total else _UNKNOWN,
            delay=1e-9,  # nothing is drawn before there is something to say
        )

    def show(self, doing: str, done: int) -> None:
        """Redraw: what is being done, and how many bytes of it."""
        self.n = done
        self.set_description_str(doing, refresh=False)
        self.refresh()
