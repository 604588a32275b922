"""What the unpickler puts in place of objects that are not tensors."""

from __future__ import annotations

from typing import Any


class Inert:
    """Stands in for an object of a class we do not run: its constructor's arguments and its state, nothing else."""

    __slots__ = ("args", "items", "state")
    qualified_name = ""

    args: tuple[object, ...]
    state: object
    items: list[object]

    def __new__(cls, *args: object, **_: object) -> Inert:
        inert = super().__new__(cls)
        inert.args, inert.state, inert.items = args, None, []
        return inert

    def __setstate__(self, state: object) -> None:
        self.state = state

    def __setitem__(self, key: object, value: object) -> None:
        self.items.append((key, value))

    def append(self, item: object) -> None:
        """What the opcodes APPEND and ADDITEMS call."""
        self.items.append(item)

    add = append

    def attribute(self, name: str) -> object:
        """The attribute `name` of the state a pickled object would have restored, or None."""
        return self.state.get(name) if isinstance(self.state, dict) else None

    def __repr__(self) -> str:
        return f"<{type(self).qualified_name}>"


class PlainDict(dict[Any, Any]):
    """A dict in place of OrderedDict and its kin; attributes set on it (`_metadata` of a state dict) are dropped."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        pass
