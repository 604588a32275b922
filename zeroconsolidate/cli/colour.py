"""Colours for the few words that must not be missed, where a person reads them.

A variable decides if it is set to anything: NO_COLOR, by which there is never any; else FORCE_COLOR, by which there is
always some. Else a stream is coloured that is a terminal, unless that calls itself `dumb`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO

RED, YELLOW, DIM = "1;31", "33", "2"


def is_coloured(stream: TextIO) -> bool:
    """Whether what is printed on this stream may have colours."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def painted(text: str, words: str, colour: str, stream: TextIO) -> str:
    """`text` with `words`, where they begin one of its lines or follow its indent, in this colour."""
    if not is_coloured(stream):
        return text
    lines = []
    for line in text.split("\n"):
        indent = line[: len(line) - len(line.lstrip(" "))]
        begins = line.startswith(indent + words)
        lines.append(f"{indent}\x1b[{colour}m{words}\x1b[0m{line[len(indent + words) :]}" if begins else line)
    return "\n".join(lines)
