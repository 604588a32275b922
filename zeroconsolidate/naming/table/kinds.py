"""Which values of a config's fields the table was proven with.

| kind | a value |
|---|---|
| `"null"`, `"bool"`, `"text"` | null, true or false, any text |
| `["int", low, high]` | a whole number in the range, written without a fraction |
| `["float", low, high]` | a number in the range, written with one |
| `["number", low, high]` | either |
| `["in", …]` | one of these, and of the same type |
| `["list", kind]` | a list of such values |
| `"map"` | an object of plain values, under any keys |
| `"labels"` | an object of texts under `"0"`, `"1"`, … |
| `["object", {key: kind}, {key: kind}]` | an object with the first keys and maybe some of the second |
| `["or", …]` | of one of these kinds |
| `"@name"` | of a kind that has a name in `entries/_common.json` |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

Kind: TypeAlias = "str | list[Any]"

_TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "float": (float,), "number": (int, float)}


def accepts(kind: Kind, value: object, named: Mapping[str, Kind]) -> bool:
    """Whether `value`, as JSON gives it, is of a kind; `named`: those with a name.

    >>> accepts(["int", 1, 8], 8, {}), accepts(["int", 1, 8], 8.0, {}), accepts(["int", 0, 8], True, {})
    (True, False, False)
    """
    if isinstance(kind, str):
        return _accepts_word(kind, value, named)
    word, rest = kind[0], kind[1:]
    if word in _TYPES:
        return type(value) in _TYPES[word] and bool(rest[0] <= value <= rest[1])
    if word == "in":
        return any(type(value) is type(one) and value == one for one in rest)
    if word == "list":
        return isinstance(value, list) and all(accepts(rest[0], each, named) for each in value)
    if word == "object":
        required, optional = rest
        return (
            isinstance(value, dict)
            and required.keys() <= value.keys() <= required.keys() | optional.keys()
            and all(accepts(required.get(key) or optional[key], each, named) for key, each in value.items())
        )
    return word == "or" and any(accepts(each, value, named) for each in rest)


def _accepts_word(kind: str, value: object, named: Mapping[str, Kind]) -> bool:
    if kind == "null":
        return value is None
    if kind in ("bool", "text"):
        return type(value) is (bool if kind == "bool" else str)
    if kind == "map":
        return isinstance(value, dict) and all(type(each) in (str, int, float, bool) for each in value.values())
    if kind == "labels":
        return (
            isinstance(value, dict)
            and [*value] == [str(number) for number in range(len(value))]
            and all(isinstance(each, str) for each in value.values())
        )
    return kind.startswith("@") and accepts(named[kind[1:]], value, named)
