"""Objects that stand for the classes and functions that a pickle names. They do nothing."""

from __future__ import annotations

from typing import Any


class Name:
    """Stands in for a class or function that a pickle names. It cannot be altered, and calling it makes an Inert."""

    __slots__ = ("qualified_name",)

    def __init__(self, qualified_name: str) -> None:
        self.qualified_name = qualified_name

    def __repr__(self) -> str:
        return f"<{self.qualified_name}>"


class Inert:
    """Stands in for an object of a class we do not run: its constructor's arguments and its state, nothing else."""

    __slots__ = ("args", "items", "qualified_name", "state")

    def __init__(self, qualified_name: str, args: tuple[object, ...]) -> None:
        self.qualified_name = qualified_name
        self.args = args
        self.state: object = None
        self.items: list[object] = []
        """What was appended; (key, value) pairs for what was set by key."""

    def attribute(self, name: str) -> object:
        """The attribute `name` of the state a pickled object would have restored, or None."""
        return self.state.get(name) if isinstance(self.state, dict) else None

    def __repr__(self) -> str:
        return f"<{self.qualified_name} object>"


class PlainDict(dict[Any, Any]):
    """A dict for OrderedDict and its subclasses; attributes set on it (`_metadata` of a state dict) are dropped."""

    __slots__ = ()
