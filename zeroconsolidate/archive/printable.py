"""Values and names from files -> short printable text."""

from __future__ import annotations

from .inert import Inert, Name


def described(value: object) -> str:
    r"""A value from a pickle, for an error: short, printable, and without what containers hold.

    >>> described("weight"), described(["x"] * 3), described(7)
    ("'weight'", 'list of 3', '7')
    """
    if isinstance(value, (str, bytes)):
        return repr(value[:100]) + ("…" if len(value) > 100 else "")
    if isinstance(value, (tuple, list, dict)):
        return f"{type(value).__name__} of {len(value)}"
    if value is None or isinstance(value, (int, float, Name, Inert)):
        return repr(value)[:100]
    return type(value).__name__


def printable(text: str, keep: str = "") -> str:
    """`text` with control characters escaped, because names in it may come from untrusted files.

    >>> printable("global_step1\\x1b[2J")
    'global_step1\\\\x1b[2J'
    """
    return "".join(c if c.isprintable() or c in keep else repr(c)[1:-1] for c in text)
