"""`watch`: what it takes, and what its help says."""

from __future__ import annotations

from dataclasses import dataclass

from ...options import Group, WatchOptions, option
from .flags import debug
from .verb import RUN_DIRECTORIES, Paths, Verb


@dataclass(frozen=True, kw_only=True)
class WatchFlags:
    """Flags of `watch` that Python does not have."""

    quiet: bool = option(False, "print only what was not converted", group=Group.PRINTING, short="-q")
    json: bool = option(False, "print a JSON object a save, each in one line", group=Group.PRINTING)
    debug: bool = debug()


VERB = Verb(
    description=(
        "Convert each save of a training run when all ranks have written it. The training is not changed for it.\n"
        "Ended and started again, it goes on where it was: what was converted is not converted again."
    ),
    forms=("RUN_DIR [RUN_DIR ...] [PATTERN]",),
    paths=Paths(
        help=f"{RUN_DIRECTORIES}; then, with {{name}} or {{step}} in it, where the models are written",
        metavar="RUN_DIR",
    ),
    kinds=(WatchOptions, WatchFlags),
    examples=(
        "zeroconsolidate watch run                         models in run-models/checkpoint-500 and so on",
        "zeroconsolidate watch run 'models/{name}' --dtype bf16 --keep 3",
        "zeroconsolidate watch run 'models/{step}' --until-step 10000 --idle 3600",
    ),
    continues=True,
)
