"""Options: each is declared once, in `verbs.py`.

Flags, keywords, checks, the manifest's record and the reference are made of the declarations.
"""

from .declaration import Declaration, Group, Switch, declarations, option, read_as, spelled
from .globs import matches, refuse_unmatched
from .keywords import takes
from .values import Path, Progress, Roots, parse_dtype, parse_size, roots_of, size_text
from .verbs import Opening, Options, UniversalOptions, VerifyOptions, Working, Writing

__all__ = [
    "Declaration",
    "Group",
    "Opening",
    "Options",
    "Path",
    "Progress",
    "Roots",
    "Switch",
    "UniversalOptions",
    "VerifyOptions",
    "Working",
    "Writing",
    "declarations",
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
