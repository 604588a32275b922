"""A raw dict and a key -> a typed value, or an error that says what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard, TypeVar

from ..archive.inert import Inert
from ..archive.located import MAX_DIMENSIONS, MAX_NUMEL, LocatedTensor
from ..archive.printable import described
from ..errors import DamagedFile

T = TypeVar("T")

MAX_NAME_CHARACTERS = 1024
"""Longer parameter names are refused."""


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
        raise DamagedFile(f"the file has no usable {key!r}", expected=kind.__name__, found=got)
    return value


def shapes(value: object, key: str) -> dict[str, tuple[int, ...]]:
    """A mapping of parameter names to shapes, as in `param_shapes`."""
    if not isinstance(value, Mapping):
        raise DamagedFile(f"{key!r} is not a mapping of names to shapes", found=type(value).__name__)
    checked: dict[str, tuple[int, ...]] = {}
    for name, shape in value.items():
        if not isinstance(shape, (tuple, list)) or not _possible(shape):
            raise DamagedFile(
                f"{key!r} has an impossible shape for {described(name)}",
                found=", ".join(map(described, shape[:8])) if isinstance(shape, (tuple, list)) else described(shape),
            )
        checked[name_of(name)] = tuple(shape)
    return checked


def shape_groups(value: object, key: str) -> tuple[dict[str, tuple[int, ...]], ...] | None:
    """One mapping of names to shapes for each flat group. DeepSpeed before 0.5.4 has one for all."""
    if value is None:
        return None
    return tuple(shapes(group, key) for group in (value if isinstance(value, (list, tuple)) else [value]))


def _possible(shape: tuple[object, ...] | list[object]) -> bool:
    numel = 1
    for n in shape[: MAX_DIMENSIONS + 1]:
        if type(n) is not int or not 0 <= n <= MAX_NUMEL:
            return False
        numel *= n
    return len(shape) <= MAX_DIMENSIONS and numel <= MAX_NUMEL


def tensors(value: object, key: str) -> dict[str, LocatedTensor]:
    """The tensors of a state dict, in order; entries that are not tensors (`_extra_state`) are left out."""
    if not isinstance(value, Mapping):
        raise DamagedFile(f"{key!r} is not a state dict", found=type(value).__name__)
    return {name_of(name): item for name, item in value.items() if isinstance(item, LocatedTensor)}


def names(value: object, key: str) -> tuple[str, ...]:
    """A list of names, as in `buffer_names`, or the keys of a mapping."""
    if not isinstance(value, (list, tuple, Mapping)):
        raise DamagedFile(f"{key!r} is not a list of names", found=type(value).__name__)
    return tuple(name_of(name) for name in value)


def flat(value: object, key: str) -> tuple[LocatedTensor, ...]:
    """A list of 1-D tensors, as in `fp32_flat_groups`."""
    if not isinstance(value, (list, tuple)):
        raise DamagedFile(f"{key!r} is not a list of tensors", found=type(value).__name__)
    for index, item in enumerate(value):
        if not isinstance(item, LocatedTensor) or len(item.shape) != 1 or not item.is_contiguous:
            raise DamagedFile(f"{key!r}[{index}] is not a flat tensor", found=described(item))
    return tuple(value)


def config(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """`ds_config` where it is a dict. Older DeepSpeed saved what it was given, which may be the path of a file."""
    value = content.get("ds_config")
    return value if isinstance(value, dict) else {}


def stage_of(config: Mapping[str, Any]) -> int | None:
    """The ZeRO stage that a DeepSpeed config states."""
    zero = config.get("zero_optimization")
    stage = zero.get("stage") if isinstance(zero, dict) else None
    return stage if type(stage) is int and 0 <= stage <= 3 else None


def are_counts(value: object) -> TypeGuard[Sequence[int]]:
    """Whether this is a list of integers, none below zero."""
    return isinstance(value, (list, tuple)) and all(type(n) is int and n >= 0 for n in value)


def enum_int(value: object) -> int | None:
    """The integer of an enum member that was pickled as `Class(3)`, or of a plain integer."""
    if isinstance(value, Inert):
        value = value.args[0] if len(value.args) == 1 else None
    return value if type(value) is int else None


def name_of(name: object) -> str:
    """A parameter's name: it becomes a key of JSON, a folder's name in some exports, and is printed."""
    if not isinstance(name, str) or not name or not name.isprintable():
        raise DamagedFile("a parameter's name is not printable text", found=described(name))
    if len(name) > MAX_NAME_CHARACTERS:
        raise DamagedFile(
            "a parameter's name is too long",
            expected=f"at most {MAX_NAME_CHARACTERS} characters",
            found=f"{len(name)}: {described(name)}",
        )
    if "/" in name or "\\" in name or name in _RESERVED:
        raise DamagedFile("a parameter's name reads like a path or a reserved word", found=described(name))
    return name


_RESERVED = frozenset({".", "..", "__metadata__"})
"""The last is where safetensors keeps what is not a tensor."""
