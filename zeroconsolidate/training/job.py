"""A conversion in the background, as it is passed to the process that does it, and what that process answers."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..errors import BadOption
from ..options.follow import BackgroundOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A save to convert when all ranks have written it."""

    paths: tuple[str, ...]
    """The checkpoint's directory, or those of several nodes."""
    output: str
    options: dict[str, Any]
    """Those that differ from their defaults, as values that JSON can hold."""

    def to_json(self) -> str:
        """The job as text."""
        return json.dumps({"paths": list(self.paths), "output": self.output, "options": self.options})

    @classmethod
    def from_json(cls, text: str) -> Job:
        """The job that `to_json` wrote."""
        found = json.loads(text)
        return cls(paths=tuple(found["paths"]), output=found["output"], options=found["options"])


def plain_options(options: BackgroundOptions) -> dict[str, Any]:
    """What of the options differs from the defaults. Raises BadOption for what cannot be passed to another process."""
    chosen = {}
    for each in fields(BackgroundOptions):
        value = getattr(options, each.name)
        if value == each.default or each.name in ("progress", "status", "files_read"):
            continue
        chosen[each.name] = _plain(each.name, value)
    return chosen


def _plain(name: str, value: object) -> object:
    if isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Sequence):
        return [_plain(name, each) for each in value]
    raise BadOption(
        f"{name} cannot be passed to another process", expected="text or a number", found=type(value).__name__
    )
