"""`universal`: what it takes, and what its help says."""

from __future__ import annotations

from ...options import UniversalOptions
from .convert import ConvertFlags
from .verb import CHECKPOINTS, Verb

VERB = Verb(
    description=(
        "Write a universal checkpoint, from which DeepSpeed resumes at another world size or ZeRO stage:\n"
        'engine.load_checkpoint(OUTPUT), with {"checkpoint": {"load_universal": true}} in its config.\n'
        "If it is interrupted, run the same command again: it continues where it stopped."
    ),
    forms=("CHECKPOINT [CHECKPOINT ...] OUTPUT",),
    paths=CHECKPOINTS,
    kinds=(UniversalOptions, ConvertFlags),
    examples=(
        "zeroconsolidate universal checkpoint-500 resume-500",
        "zeroconsolidate universal checkpoint-500 resume-500 --dry-run",
    ),
    writes=True,
    continues=True,
)
