"""Checks the pages that were built: every link, every anchor and every file they name is there, none is elsewhere."""

from __future__ import annotations

import posixpath
from html.parser import HTMLParser
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from pathlib import Path

_FETCHED = {("script", "src"), ("img", "src"), ("link", "href"), ("source", "src"), ("iframe", "src")}
"""What a browser fetches by itself, so that nothing of it may be on another host."""


class Page(HTMLParser):
    """The ids and the links of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[tuple[str, bool]] = []
        """Target, and whether a browser fetches it by itself."""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what the tag names."""
        for key, value in attrs:
            if key in ("id", "name") and value:
                self.ids.add(value)
            elif key in ("href", "src") and value is not None:
                self.links.append((value, (tag, key) in _FETCHED))


def broken(site: Path) -> list[str]:
    """What is wrong with the links of all pages, a line each."""
    pages = {path.relative_to(site).as_posix(): Page(path.read_text()) for path in sorted(site.rglob("*.html"))}
    problems = []
    for name, page in pages.items():
        for link, fetched in page.links:
            if "://" in link or link.startswith(("mailto:", "data:", "//")):
                if fetched and not link.startswith("data:"):
                    problems.append(f"{name}: fetches {link}")
                continue
            path, _, anchor = link.partition("#")
            path = unquote(path.partition("?")[0])
            target = posixpath.normpath(posixpath.join(posixpath.dirname(name), path)) if path else name
            if not (site / target).is_file():
                problems.append(f"{name}: there is no {link}")
            elif anchor and target in pages and unquote(anchor) not in pages[target].ids:
                problems.append(f"{name}: there is no anchor {link}")
    return problems
