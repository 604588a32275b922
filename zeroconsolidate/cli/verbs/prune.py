"""`prune`: what it takes, and what its help says."""

from __future__ import annotations

from dataclasses import dataclass

from ...options import Group, PruneOptions, option
from .flags import debug
from .verb import RUN_DIRECTORIES, Paths, Verb


@dataclass(frozen=True, kw_only=True)
class PruneFlags:
    """Flags of `prune` that Python does not have."""

    quiet: bool = option(False, "print no report and no progress", group=Group.PRINTING, short="-q")
    json: bool = option(False, "print the result, or the error, as one JSON object", group=Group.PRINTING)
    debug: bool = debug()


VERB = Verb(
    description=(
        "Remove the optimizer's files of older saves, once their models are verified; or whole saves.\n"
        "Without --yes, only print what would be removed. The newest saves to resume from always stay."
    ),
    forms=("RUN_DIR [RUN_DIR ...]",),
    paths=Paths(help=RUN_DIRECTORIES, metavar="RUN_DIR"),
    kinds=(PruneOptions, PruneFlags),
    examples=(
        "zeroconsolidate prune run                         what would be removed",
        "zeroconsolidate prune run --keep 2 --yes",
        "zeroconsolidate prune run --remove checkpoint --yes",
    ),
    continues=True,
)
