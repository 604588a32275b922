"""A report -> records of the logger `zeroconsolidate`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..archive.printable import printable
from ..integrations.records import record

if TYPE_CHECKING:
    from .report import Report


def log(report: Report) -> None:
    """What was decided at INFO, what a loader will miss and other warnings at WARNING, a record each."""
    output = printable(report.output)
    record("info", map(printable, (report.names, *report.notes)), of=output)
    record("warning", map(printable, (*report.missing, *report.warnings)), of=output)
