"""The options of `inspect`, as a dataclass. To add an option, add a field: this is the only place."""

from __future__ import annotations

from dataclasses import dataclass

from .common import Counting, Opening


@dataclass(frozen=True, kw_only=True)
class InspectOptions(Counting, Opening):
    """The options of `inspect`."""


@dataclass(frozen=True, kw_only=True)
class RunOptions(Counting):
    """The options of `inspect_run`."""
