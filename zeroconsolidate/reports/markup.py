"""Elements of HTML and SVG. Text is escaped wherever it enters, so that a name from a checkpoint stays text."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from ..archive.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

VOID = frozenset(("meta",))
"""Elements without content, as they are used here."""


class Markup(str):
    """Text that is HTML already. Nothing but this module makes it of other text."""

    __slots__ = ()


Content: TypeAlias = "str | Markup | Iterable[str | Markup] | None"

_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"})


def escaped(text: str) -> Markup:
    """Text as HTML shows it, control characters and marks that turn text around spelled out.

    >>> escaped('<b onclick="x">')
    '&lt;b onclick=&quot;x&quot;&gt;'
    """
    return Markup(printable(text, keep="\n").translate(_ESCAPES))


def tag(name: str, /, *content: Content, **attributes: object) -> Markup:
    """An element. Attributes are spelled as in Python: `class_`, `aria_label`; those that are None are left out.

    >>> tag("td", "a < b", class_="n", colspan=2)
    '<td class="n" colspan="2">a &lt; b</td>'
    """
    opened = name + "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Markup(f"<{opened}>")
    return Markup(f"<{opened}>{joined(*content)}</{name}>")


def joined(*content: Content) -> Markup:
    """Several pieces after one another; plain text is escaped."""
    return Markup("".join(map(_piece, content)))


def _piece(content: Content) -> str:
    if content is None:
        return ""
    if isinstance(content, Markup):
        return content
    if isinstance(content, str):
        return escaped(content)
    return "".join(map(_piece, content))


def verbatim(text: str) -> Markup:
    """Text of ours that is HTML: styles and scripts. Never of a name."""
    return Markup(text)
