"""docs/index.md: which pages there are, in which order and under which heading."""

from __future__ import annotations

import re

OUTSIDE = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
"""Files in the root of the repository that are pages, too -> the names of these pages."""

ENTRY = re.compile(r"^- \[(?P<title>.*?)\]\((?P<path>[^)]+\.md)\)(?P<more>.*(?:\n  .*)*)$", re.MULTILINE)
"""An entry of the index: title, path as it is written there, and what is said of it."""


def sections(index: str) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """The parts of the index: heading, and (title, path, what is said of it) of each page."""
    _, *parts = re.split(r"^## ", index, flags=re.MULTILINE)
    return [
        (heading, [(entry["title"], entry["path"], " ".join(entry["more"].split())) for entry in ENTRY.finditer(body)])
        for heading, _, body in (part.partition("\n") for part in parts)
    ]


def page_of(path: str) -> str:
    """The name under which a page of the index is on the site, without its suffix."""
    return OUTSIDE.get(path.removeprefix("../"), path).removesuffix(".md")
