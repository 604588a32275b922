"""What a loader will miss of an output, and the option that adds it."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from .known_files import group_of

if TYPE_CHECKING:
    from collections.abc import Container

_NEEDED = {
    "config": ("config.json", "from_pretrained will fail"),
    "tokenizer": ("tokenizer", "AutoTokenizer will fail"),
}
"""Group of files -> what it is called, and what follows if there is none."""


def missing(groups: Container[str], checkpoint: str, base: str | None, *, is_tag: bool) -> tuple[str, ...]:
    """A sentence for each group of files that a loader needs and that is not among `groups`.

    `is_tag`: the checkpoint is a tag's own folder. What lies beside it there was not looked for in the folder above,
    which may be another run's; but it is named.
    """
    return tuple(_sentence(group, checkpoint, base, is_tag=is_tag) for group in _NEEDED if group not in groups)


def _sentence(group: str, checkpoint: str, base: str | None, *, is_tag: bool) -> str:
    what, consequence = _NEEDED[group]
    places, source = [checkpoint, *([] if base is None else [base])], "DIR"
    if is_tag:
        above = os.path.dirname(checkpoint) or ("." if checkpoint != "." else "..")
        if any(group_of(entry) == group for entry in _listed(above)):
            source = shlex.quote(above)
        else:
            places.append(above)
    return f"no {what} in {' or '.join(places)}: {consequence}; add it with --base {source}"


def _listed(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []
