"""Ctrl-C in the middle of a conversion."""

from __future__ import annotations


class Interrupt:
    """A progress callback that presses Ctrl-C when so many bytes are written, and remembers where it began."""

    def __init__(self, after: int | None = None) -> None:
        self.after = after
        self.first: int | None = None

    def __call__(self, done: int, total: int) -> None:
        self.first = done if self.first is None else self.first
        if self.after is not None and done >= self.after:
            raise KeyboardInterrupt
