"""Options: each is declared once, in the module of its verb, or in `common.py` if several verbs have it.

Flags, keywords, checks, the manifest's record and the reference are made of the declarations.
"""

from typing import TypeAlias

from .answers import AnswersOptions
from .common import Counting, Opening, Working
from .compare import CompareOptions
from .convert import Options
from .declaration import Declaration, Group, Switch, declarations, for_command, option, read_as, spelled
from .follow import BackgroundOptions, FollowOptions, WatchOptions
from .globs import matches, refuse_unmatched
from .inspect import InspectOptions, RunOptions
from .keywords import takes
from .loading import LoadingOptions, StateDictOptions
from .prune import PruneOptions
from .reading import ReadingOptions
from .spoken import as_typed, in_python
from .universal import UniversalOptions
from .values import Path, Progress, Roots, element_type, parse_dtype, parse_size, roots_of, size_text
from .verify import SourceOptions, VerifyOptions

Writing: TypeAlias = Options | UniversalOptions
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
