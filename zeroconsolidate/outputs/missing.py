"""The files of an output -> what a loader will miss, and the option that adds it."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from ..archive.places import names_in
from .known_files import group_of

if TYPE_CHECKING:
    from collections.abc import Container

_NEEDED = {"config": "config.json", "tokenizer": "tokenizer"}
"""Group of files -> what it is called."""


def missing(groups: Container[str], checkpoint: str, base: str | None, *, is_tag: bool) -> tuple[str, ...]:
    """A sentence about files that a loader needs and that are not among the `groups` that are there; empty if there are
    none.

    `is_tag`: the checkpoint is a tag's own folder. The folder above was then not searched, because it may belong to
    another run, but the sentence names it.
    """
    lacking = [group for group in _NEEDED if group not in groups]
    if not lacking:
        return ()
    places, source = [checkpoint, *([] if base is None else [base])], "DIR"
    if is_tag:
        above = os.path.dirname(checkpoint) or ("." if checkpoint != "." else "..")
        if any(group_of(entry) in lacking for entry in _listed(above)):
            source = shlex.quote(above)
        else:
            places.append(above)
    what = " and no ".join(_NEEDED[group] for group in lacking)
    loader = "from_pretrained" if "config" in lacking else "AutoTokenizer"
    it = "it" if len(lacking) == 1 else "them"
    return (f"no {what} in {' or '.join(places)}: {loader} will fail; add {it} with --base {source}",)


def _listed(directory: str) -> list[str]:
    try:
        return names_in(directory)
    except OSError:
        return []
