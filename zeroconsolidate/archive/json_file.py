"""JSON that is not trusted (configurations, headers, indices) -> its value, within limits."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ..errors import DamagedFile, at
from .regular import read_small

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_BYTES = 1 << 24
"""A larger file is refused: configurations take a few kilobytes."""


def parse(
    text: bytes,
    what: str,
    *,
    parse_int: Callable[[str], object] | None = None,
    make: Callable[[list[tuple[str, Any]]], object] | None = None,
) -> Any:
    """The value in `text`; `make` makes objects of pairs. Raises DamagedFile, calling it `what`, if it is not JSON or
    nested too deep."""
    try:
        return json.loads(text.decode("utf-8"), parse_int=parse_int, object_pairs_hook=make)
    except DamagedFile:
        raise
    except ValueError as error:
        raise DamagedFile(f"{what} is not JSON: {error}") from None
    except RecursionError:
        raise DamagedFile(f"{what} is nested too deeply") from None


def parse_object(text: bytes, what: str) -> dict[str, Any]:
    """The object in `text`. Raises DamagedFile, calling it `what`, if it is none or names a key twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise DamagedFile(f"{what} names an entry twice")
        return found

    value = parse(text, what, make=unique)
    if not isinstance(value, dict):
        raise DamagedFile(f"{what} is not a JSON object", found=type(value).__name__)
    return value


def read_json(path: str) -> dict[str, Any]:
    """The object in the file. Raises DamagedFile if it cannot be read, is too large, or is not a JSON object."""
    with at(path):
        value = parse(read_small(path, MAX_BYTES), "the file")
        if not isinstance(value, dict):
            raise DamagedFile("the file holds no JSON object", found=type(value).__name__)
        return value
