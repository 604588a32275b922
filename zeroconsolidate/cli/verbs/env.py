"""`env`: what it takes, and what its help says."""

from __future__ import annotations

from dataclasses import dataclass

from ...options import Group, option
from .flags import NoOptions, debug
from .verb import Verb


@dataclass(frozen=True, kw_only=True)
class EnvFlags:
    """Flags of `env`."""

    json: bool = option(False, "print it as one JSON object", group=Group.PRINTING)
    debug: bool = debug()


VERB = Verb(
    description=(
        "Print the versions of Python and of all packages that can play a part, the file system of the working\n"
        "directory, processors and limits. Of environment variables it is only said that they are set."
    ),
    forms=("",),
    paths=None,
    kinds=(NoOptions, EnvFlags),
    examples=("zeroconsolidate env", "zeroconsolidate env --json"),
)
