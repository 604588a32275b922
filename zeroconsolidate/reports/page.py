"""Sections -> a page: one file that loads nothing, whatever is in it."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

from .._version import __version__
from .look import SCRIPT, STYLE
from .markup import Markup, joined, tag, verbatim

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .markup import Content

_HASH = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'"
)
"""What a browser may do with the page: nothing but draw it and run the one script of ours."""


def page(title: str, lead: Content, *sections: Markup) -> str:
    """The text of a page in HTML."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", verbatim(STYLE)),
    )
    body = tag(
        "body",
        tag("a", "To the table of tensors", href="#tensors", class_="hidden"),
        tag("header", tag("h1", title), lead),
        tag("main", sections),
        tag("footer", f"Written by zeroconsolidate {__version__}. This page loads nothing and sends nothing."),
        tag("script", verbatim(SCRIPT)),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def section(title: str, *content: Content, id_: str | None = None) -> Markup:
    """A part of a page under a heading; nothing if it has no content."""
    inside = joined(*content)
    return tag("section", tag("h2", title, id=id_), inside) if inside else Markup("")


def findings(texts: Sequence[str]) -> Markup:
    """What needs attention, one below the other."""
    return tag("ul", [tag("li", text) for text in texts], class_="findings") if texts else Markup("")


def facts(rows: Sequence[tuple[str, str]]) -> Markup:
    """Names with their values."""
    return tag("dl", [joined(tag("dt", name), tag("dd", value)) for name, value in rows]) if rows else Markup("")


def texts(items: Sequence[str]) -> Markup:
    """A plain list."""
    return tag("ul", [tag("li", text) for text in items]) if items else Markup("")
