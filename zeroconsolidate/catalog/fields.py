"""Typed look-ups in raw dicts: what is missing or of the wrong kind is an error that says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from ..archive.inert import Inert
from ..archive.located import LocatedTensor
from ..errors import DamagedFile

T = TypeVar("T")


def field(content: Mapping[str, Any], key: str, kind: type[T], default: T | None = None) -> T:
    """`content[key]`, which must be a `kind`; `default` (unless that is None) where it is missing or None."""
    value = content.get(key)
    if value is None and default is not None:
        return default
    return _checked(value, key, kind)


def optional(content: Mapping[str, Any], key: str, kind: type[T]) -> T | None:
    """`content[key]`, which must be a `kind` or None or missing."""
    value = content.get(key)
    return None if value is None else _checked(value, key, kind)


def _checked(value: object, key: str, kind: type[T]) -> T:
    # bool is an int to Python, never to a checkpoint.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        got = "nothing" if value is None else type(value).__name__
        raise DamagedFile(f"the file has no usable {key!r}; expected {kind.__name__}, got {got}")
    return value


def shapes(value: object, key: str) -> dict[str, tuple[int, ...]]:
    """A mapping of parameter names to shapes, as in `param_shapes`."""
    if not isinstance(value, Mapping):
        raise DamagedFile(f"{key!r} is not a mapping of names to shapes; got {type(value).__name__}")
    checked: dict[str, tuple[int, ...]] = {}
    for name, shape in value.items():
        if not isinstance(shape, (tuple, list)) or not all(type(n) is int and n >= 0 for n in shape):
            raise DamagedFile(f"{key!r} has an impossible shape for {name!r}; got {shape!r:.80}")
        checked[_name(name)] = tuple(shape)
    return checked


def tensors(value: object, key: str) -> dict[str, LocatedTensor]:
    """The tensors of a state dict, in order; entries that are no tensors (`_extra_state`) are left out."""
    if not isinstance(value, Mapping):
        raise DamagedFile(f"{key!r} is not a state dict; got {type(value).__name__}")
    return {_name(name): item for name, item in value.items() if isinstance(item, LocatedTensor)}


def flat(value: object, key: str) -> tuple[LocatedTensor, ...]:
    """A list of 1-D tensors, as in `fp32_flat_groups`."""
    if not isinstance(value, (list, tuple)):
        raise DamagedFile(f"{key!r} is not a list of tensors; got {type(value).__name__}")
    for index, item in enumerate(value):
        if not isinstance(item, LocatedTensor) or len(item.shape) != 1 or not item.is_contiguous:
            raise DamagedFile(f"{key!r}[{index}] is not a flat tensor; got {item!r:.80}")
    return tuple(value)


def enum_int(value: object) -> int | None:
    """The integer of an enum member that was pickled as `Class(3)`, or of a plain integer."""
    if isinstance(value, Inert):
        value = value.args[0] if len(value.args) == 1 else None
    return value if type(value) is int else None


def _name(name: object) -> str:
    if not isinstance(name, str) or not name or not name.isprintable():
        raise DamagedFile(f"a parameter's name is not printable text; got {name!r:.80}")
    return name
