"""How values that a file made up look in an error."""

from __future__ import annotations

from .inert import Inert, Name


def shown(value: object) -> str:
    r"""A value out of a pickle, for an error: short, printable, and never walking into containers.

    >>> shown("weight"), shown(["x"] * 3), shown(7)
    ("'weight'", 'list of 3', '7')
    """
    if isinstance(value, (str, bytes)):
        return repr(value[:100]) + ("…" if len(value) > 100 else "")
    if isinstance(value, (tuple, list, dict)):
        return f"{type(value).__name__} of {len(value)}"
    if value is None or isinstance(value, (int, float, Name, Inert)):
        return repr(value)[:100]
    return type(value).__name__
