"""Texts -> records of the logger `zeroconsolidate` of the module `logging`, for whoever routes them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

LOGGER = "zeroconsolidate"


def record(level: Literal["debug", "info", "warning"], texts: Iterable[str], *, of: str | None = None) -> None:
    """Make a record of each text. `of`: what it is about, which is put in front of it."""
    if "logging" not in sys.modules:
        return  # It takes 9 ms to import, and who has not done so has nothing set up that would hear it.
    import logging

    logger = logging.getLogger(LOGGER)
    if not logger.handlers:
        # Else logging itself would print warnings that no handler takes, which the command prints already.
        logger.addHandler(logging.NullHandler())
    say = getattr(logger, level)
    for text in texts:
        if of is None:
            say("%s", text)
        else:
            say("%s: %s", of, text)
