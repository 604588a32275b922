"""Turns bytes into choices, the same choices each time: a fuzzer's input, replayed without the fuzzer."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


class Draw:
    """Reads `data` from its start; when it is used up, everything is the first choice, zero or empty."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def __bool__(self) -> bool:
        """Whether there is data left."""
        return self._position < len(self._data)

    def bytes(self, count: int) -> bytes:
        part = self._data[self._position : self._position + count]
        self._position += count
        return part

    def rest(self) -> bytes:
        return self.bytes(len(self._data))

    def below(self, limit: int) -> int:
        """An integer in [0, limit), limit <= 256."""
        return (self.bytes(1) or b"\0")[0] % limit

    def one_of(self, choices: list[T]) -> T:
        return choices[self.below(len(choices))]

    def integer(self) -> int:
        """Mostly small, at times at the edges of machine words."""
        kind = self.below(16)
        if kind < 12:
            return kind
        if kind == 12:
            return -1 - self.below(4)
        if kind == 13:
            return (1 << self.one_of([31, 32, 53, 56, 63, 64, 600])) - self.below(3)
        return int.from_bytes(self.bytes(2), "little")

    def text(self) -> str:
        return self.bytes(self.below(12)).decode("utf-8", "surrogateescape")
