"""Flags that several commands have."""

from __future__ import annotations

from dataclasses import dataclass

from ...options import Group, option


def html_flag(what: str) -> str | None:
    """`--html`, which several commands have: a field belongs to one class, so each makes its own."""
    return option(
        None,
        f"write {what} as a page, one HTML file that needs no network",
        group=Group.PRINTING,
        metavar="REPORT.html",
    )


def debug() -> bool:
    """A field belongs to one class, so each makes its own."""
    return option(
        False,
        "show the traceback behind an error, as the environment variable `ZEROCONSOLIDATE_DEBUG=1` does",
        group=Group.PRINTING,
    )


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """The options of a command that has none."""
