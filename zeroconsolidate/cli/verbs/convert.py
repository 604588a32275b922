"""`convert`: what it takes, and what its help says."""

from __future__ import annotations

from dataclasses import dataclass

from ...options import Group, Options, option
from .flags import debug, html_flag
from .verb import CHECKPOINTS, Verb


@dataclass(frozen=True, kw_only=True)
class ConvertFlags:
    """Flags of `convert` and `universal` that Python does not have."""

    dry_run: bool = option(
        False,
        "print what the conversion would read, write and need, or the error it would end with; write nothing",
        group=Group.PRINTING,
    )
    quiet: bool = option(
        False,
        "print no report and no progress; warnings and errors are still printed",
        group=Group.PRINTING,
        short="-q",
    )
    json: bool = option(False, "print the report, or the error, as one JSON object", group=Group.PRINTING)
    html: str | None = html_flag("the rescue report")
    debug: bool = debug()


@dataclass(frozen=True, kw_only=True)
class ModelFlags(ConvertFlags):
    """Flags of `convert` that Python does not have: there they are functions, `consolidate_part` and `finish_parts`."""

    part: str | None = option(
        None,
        "write only part K of N, such as `3/16`, in each job of a batch array: parts may be written at the same time "
        "on machines that share the file system or the bucket, and again; `--finish` then makes the output of them",
        group=Group.MACHINES,
        metavar="K/N",
    )
    finish: bool = option(
        False,
        "finish an output when all jobs with {part} and otherwise the same options have ended: check it, and give it "
        "its name",
        group=Group.MACHINES,
    )

    abort: bool = option(
        False,
        "convert nothing; remove what an interrupted conversion has left in OUTPUT: staged files, and in an object "
        "store uploads that no listing shows",
        group=Group.OUTPUT,
    )


VERB = Verb(
    description=(
        "Write the model of a checkpoint into a directory that loads.\n"
        "If the conversion is interrupted, run the same command again: it continues where it stopped."
    ),
    forms=("CHECKPOINT [CHECKPOINT ...] OUTPUT",),
    paths=CHECKPOINTS,
    kinds=(Options, ModelFlags),
    examples=(
        "zeroconsolidate convert checkpoint-500 my-model",
        "zeroconsolidate convert checkpoint-500 my-model --dtype bf16 --max-shard-size 5GB",
        "zeroconsolidate convert checkpoint-500 my-model --lora merge --base Qwen/Qwen2.5-7B",
        "zeroconsolidate convert checkpoint-500 my-model --part 3/16       in each of 16 jobs; then once --finish",
    ),
    writes=True,
    continues=True,
)
