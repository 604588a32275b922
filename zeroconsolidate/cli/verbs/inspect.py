"""`inspect`: what it takes, and what its help says."""

from __future__ import annotations

from dataclasses import dataclass

from ...options import Group, InspectOptions, option
from .flags import debug, html_flag
from .verb import CHECKPOINTS, Verb


@dataclass(frozen=True, kw_only=True)
class InspectFlags:
    """Flags of `inspect` that Python does not have."""

    tensors: bool = option(False, "list every tensor", group=Group.PRINTING)
    json: bool = option(False, "print the result, or the error, as one JSON object", group=Group.PRINTING)
    html: str | None = html_flag("what the checkpoint holds")
    debug: bool = debug()


VERB = Verb(
    description=(
        "Print what a checkpoint holds, or which saves a run directory has, and from where training can resume.\n"
        "Only metadata is read, which takes a moment for a model of any size."
    ),
    forms=("CHECKPOINT [CHECKPOINT ...]", "RUN_DIR [RUN_DIR ...]"),
    paths=CHECKPOINTS,
    kinds=(InspectOptions, InspectFlags),
    examples=(
        "zeroconsolidate inspect checkpoint-500",
        "zeroconsolidate inspect run                       all saves of a run, and where it can resume",
        "zeroconsolidate inspect checkpoint-500 --tensors",
    ),
)
