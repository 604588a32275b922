"""A report -> records of the logger `zeroconsolidate`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ..archive.printable import printable

if TYPE_CHECKING:
    from .report import Report

LOGGER = "zeroconsolidate"


def log(report: Report) -> None:
    """What was decided at INFO, what a loader will miss and other warnings at WARNING, a record each."""
    if "logging" not in sys.modules:
        return  # It takes 9 ms to import, and who has not done so has nothing set up that would hear it.
    import logging

    logger = logging.getLogger(LOGGER)
    if not logger.handlers:
        # Else logging itself would print warnings that no handler takes, which the command prints already.
        logger.addHandler(logging.NullHandler())
    for text in (report.names, *report.notes):
        logger.info("%s: %s", printable(report.output), printable(text))
    for text in (*report.missing, *report.warnings):
        logger.warning("%s: %s", printable(report.output), printable(text))
