"""Options: each is declared once, in the module of its verb, or in `common.py` if several verbs have it.

Flags, keywords, checks, the manifest's record and the reference are made of the declarations.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

from .declaration import Declaration, Group, Switch, declarations, for_command, option, read_as, spelled
from .globs import matches, refuse_unmatched
from .keywords import takes
from .spoken import as_typed, in_python
from .values import Path, Progress, Roots, element_type, parse_dtype, parse_size, roots_of, size_text

if TYPE_CHECKING:
    from .answers import AnswersOptions
    from .common import Counting, Opening, Working
    from .compare import CompareOptions
    from .convert import Options
    from .follow import BackgroundOptions, FollowOptions, WatchOptions
    from .inspect import InspectOptions, RunOptions
    from .loading import LoadingOptions, StateDictOptions
    from .prune import PruneOptions
    from .reading import ReadingOptions
    from .universal import UniversalOptions
    from .verify import SourceOptions, VerifyOptions

Writing: TypeAlias = "Options | UniversalOptions"
"""The options of a command that writes."""

__all__ = [
    "AnswersOptions",
    "BackgroundOptions",
    "CompareOptions",
    "Counting",
    "Declaration",
    "FollowOptions",
    "Group",
    "InspectOptions",
    "LoadingOptions",
    "Opening",
    "Options",
    "Path",
    "Progress",
    "PruneOptions",
    "ReadingOptions",
    "Roots",
    "RunOptions",
    "SourceOptions",
    "StateDictOptions",
    "Switch",
    "UniversalOptions",
    "VerifyOptions",
    "WatchOptions",
    "Working",
    "Writing",
    "as_typed",
    "declarations",
    "element_type",
    "for_command",
    "in_python",
    "matches",
    "option",
    "parse_dtype",
    "parse_size",
    "read_as",
    "refuse_unmatched",
    "roots_of",
    "size_text",
    "spelled",
    "takes",
]

_HOMES = {
    "AnswersOptions": "answers",
    "BackgroundOptions": "follow",
    "CompareOptions": "compare",
    "Counting": "common",
    "FollowOptions": "follow",
    "InspectOptions": "inspect",
    "LoadingOptions": "loading",
    "Opening": "common",
    "Options": "convert",
    "PruneOptions": "prune",
    "ReadingOptions": "reading",
    "RunOptions": "inspect",
    "SourceOptions": "verify",
    "StateDictOptions": "loading",
    "UniversalOptions": "universal",
    "VerifyOptions": "verify",
    "WatchOptions": "follow",
    "Working": "common",
}
"""Where each set of options is declared. It is imported when it is first used: a verb needs only its own."""


def __getattr__(name: str) -> Any:
    """A set of options, imported when it is first used. Raises AttributeError for any other name."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value
