"""A value that holds others, to any depth -> the same with something else in place of its tensors.

What a program saved beside the model may be anything that a pickle can say: a list that contains itself, the same list
2**50 times, or a thousand lists in each other. Each container is gone through once, and none too deep.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..archive.located import LocatedTensor
from .state import is_plain

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_DEPTH = 32
"""What is nested deeper is not gone into."""


class NotPlain(Exception):
    """A value that is, or holds, an object of some class, or contains itself, or is nested too deeply."""


def refused(value: object) -> object:
    """What `rebuilt` does with such a value if nothing else is said. Raises NotPlain."""
    raise NotPlain


def rebuilt(
    value: object,
    tensor: Callable[[LocatedTensor, str], object],
    *,
    place: str = "",
    other: Callable[[object], object] = refused,
) -> Any:
    """The value in containers of its own. What was there twice is there twice again, as one object.

    `tensor(t, where)` stands in place of each tensor t, and `other(o)` in place of what is neither plain, nor bytes,
    nor a list, tuple or dict; of a container inside of itself; and of one that is nested too deeply. `where` is the
    first place of the tensor: `place` and then keys and numbers, joined with dots. Raises what the two raise.
    """
    return _Rebuilding(tensor, other).made(value, place, 0)


class _Rebuilding:
    def __init__(self, tensor: Callable[[LocatedTensor, str], object], other: Callable[[object], object]) -> None:
        self._tensor, self._other = tensor, other
        self._known: dict[int, object] = {}
        self._open: set[int] = set()

    def made(self, value: object, place: str, depth: int) -> object:
        if is_plain(value) or isinstance(value, bytes):
            return value
        if id(value) in self._known:
            return self._known[id(value)]
        if depth > MAX_DEPTH or id(value) in self._open:
            return self._other(value)
        self._open.add(id(value))
        made = self._known[id(value)] = self._one(value, place, depth + 1)
        return made

    def _one(self, value: object, place: str, depth: int) -> object:
        if isinstance(value, LocatedTensor):
            return self._tensor(value, place)
        if isinstance(value, dict):
            return {
                key if is_plain(key) else self._other(key): self.made(item, f"{place}.{key}", depth)
                for key, item in value.items()
            }
        if isinstance(value, (list, tuple)):
            items = [self.made(item, f"{place}.{number}", depth) for number, item in enumerate(value)]
            return items if isinstance(value, list) else tuple(items)
        return self._other(value)
