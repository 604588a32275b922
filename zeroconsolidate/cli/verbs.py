"""The commands: what each takes, and what its help says. What they do is in :mod:`.actions`."""

from __future__ import annotations

from dataclasses import dataclass

from ..options import (
    CompareOptions,
    InspectOptions,
    Options,
    PruneOptions,
    UniversalOptions,
    VerifyOptions,
    WatchOptions,
)
from .flags import (
    CompareFlags,
    CompletionFlags,
    ConvertFlags,
    EnvFlags,
    InspectFlags,
    ModelFlags,
    NoOptions,
    PruneFlags,
    VerifyFlags,
    WatchFlags,
)

SHELLS = ("bash", "zsh", "fish")
"""Shells for which there is a completion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """What a command takes besides options."""

    help: str
    metavar: str
    name: str = "roots"
    """The attribute that they are in when the command line is parsed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """A command."""

    about: str
    """In one line, for the list of commands."""
    description: str
    forms: tuple[str, ...]
    """The forms of its arguments."""
    paths: Paths | None
    kinds: tuple[type, type]
    """Its options: those that Python has too, and its own."""
    examples: tuple[str, ...]
    writes: bool = False
    """Whether its last path is an OUTPUT."""
    continues: bool = False
    """Whether it goes on with what was interrupted if it is run again."""


_CHECKPOINTS = Paths(
    help="a Trainer's checkpoint-N, a folder global_stepN, or a run directory; several if nodes saved to their own "
    "disks",
    metavar="CHECKPOINT",
)
_RUN_DIRECTORIES = "a directory with checkpoint-500 and so on, or of tags; several if nodes saved to their own disks"

VERBS: dict[str, Verb] = {
    "convert": Verb(
        about="write the model of a checkpoint, to load or upload it",
        description=(
            "Write the model of a checkpoint into a directory that loads.\n"
            "If the conversion is interrupted, run the same command again: it continues where it stopped."
        ),
        forms=("CHECKPOINT [CHECKPOINT ...] OUTPUT",),
        paths=_CHECKPOINTS,
        kinds=(Options, ModelFlags),
        examples=(
            "zeroconsolidate convert checkpoint-500 my-model",
            "zeroconsolidate convert checkpoint-500 my-model --dtype bf16 --max-shard-size 5GB",
            "zeroconsolidate convert checkpoint-500 my-model --lora merge --base Qwen/Qwen2.5-7B",
            "zeroconsolidate convert checkpoint-500 my-model --part 3/16       in each of 16 jobs; then once --finish",
        ),
        writes=True,
        continues=True,
    ),
    "universal": Verb(
        about="write a universal checkpoint, to resume on other ranks or at another stage",
        description=(
            "Write a universal checkpoint, from which DeepSpeed resumes at another world size or ZeRO stage:\n"
            'engine.load_checkpoint(OUTPUT), with {"checkpoint": {"load_universal": true}} in its config.\n'
            "If it is interrupted, run the same command again: it continues where it stopped."
        ),
        forms=("CHECKPOINT [CHECKPOINT ...] OUTPUT",),
        paths=_CHECKPOINTS,
        kinds=(UniversalOptions, ConvertFlags),
        examples=(
            "zeroconsolidate universal checkpoint-500 resume-500",
            "zeroconsolidate universal checkpoint-500 resume-500 --dry-run",
        ),
        writes=True,
        continues=True,
    ),
    "inspect": Verb(
        about="print what a checkpoint holds, or the saves of a run, and where training can resume",
        description=(
            "Print what a checkpoint holds, or which saves a run directory has, and from where training can resume.\n"
            "Only metadata is read, which takes a moment for a model of any size."
        ),
        forms=("CHECKPOINT [CHECKPOINT ...]", "RUN_DIR [RUN_DIR ...]"),
        paths=_CHECKPOINTS,
        kinds=(InspectOptions, InspectFlags),
        examples=(
            "zeroconsolidate inspect checkpoint-500",
            "zeroconsolidate inspect run                       all saves of a run, and where it can resume",
            "zeroconsolidate inspect checkpoint-500 --tensors",
        ),
    ),
    "verify": Verb(
        about="check a model, a checkpoint, or a model against its checkpoint",
        description=(
            "Check one of these:\n"
            "  a model directory: headers, index, sizes, config, names, digests of the manifest;\n"
            "  a model directory against its checkpoint, byte for byte;\n"
            "  a checkpoint: checksums, agreement of ranks, NaN, master weights against 16-bit copies."
        ),
        forms=("OUTPUT", "OUTPUT CHECKPOINT [CHECKPOINT ...]", "CHECKPOINT [CHECKPOINT ...]"),
        paths=Paths(
            help="a model directory, whatever tool wrote it; a checkpoint; or both",
            metavar="OUTPUT, CHECKPOINT",
            name="paths",
        ),
        kinds=(VerifyOptions, VerifyFlags),
        examples=(
            "zeroconsolidate verify my-model                   headers, index, sizes, config, names, digests",
            "zeroconsolidate verify my-model checkpoint-500    byte for byte, whatever tool wrote my-model",
            "zeroconsolidate verify checkpoint-500             checksums, ranks, NaN, 16-bit copies",
        ),
    ),
    "compare": Verb(
        about="compare two models: what differs, by how much, and what is suspicious",
        description=(
            "Compare two models, tensor by tensor. Each is a checkpoint, a model directory, an adapter or a hub id.\n"
            "Names are matched as a loader would; tensors of different dtypes are compared by value."
        ),
        forms=("A B",),
        paths=Paths(
            help="a checkpoint, a model directory, an adapter, or the id of a model on the hub",
            metavar="A, B",
            name="paths",
        ),
        kinds=(CompareOptions, CompareFlags),
        examples=(
            "zeroconsolidate compare checkpoint-500 Qwen/Qwen2.5-7B           what training changed",
            "zeroconsolidate compare checkpoint-500 checkpoint-1000           two steps",
            "zeroconsolidate compare my-model checkpoint-500 --tolerance 1%   a model that another tool wrote",
        ),
    ),
    "watch": Verb(
        about="convert each save of a run as it appears",
        description=(
            "Convert each save of a training run when all ranks have written it. The training is not changed for it.\n"
            "Ended and started again, it goes on where it was: what was converted is not converted again."
        ),
        forms=("RUN_DIR [RUN_DIR ...] [PATTERN]",),
        paths=Paths(
            help=f"{_RUN_DIRECTORIES}; then, with {{name}} or {{step}} in it, where the models are written",
            metavar="RUN_DIR",
        ),
        kinds=(WatchOptions, WatchFlags),
        examples=(
            "zeroconsolidate watch run                         models in run-models/checkpoint-500 and so on",
            "zeroconsolidate watch run 'models/{name}' --dtype bf16 --keep 3",
            "zeroconsolidate watch run 'models/{step}' --until-step 10000 --idle 3600",
        ),
        continues=True,
    ),
    "prune": Verb(
        about="free disk space: remove what resuming no longer needs",
        description=(
            "Remove the optimizer's files of older saves, once their models are verified; or whole saves.\n"
            "Without --yes, only print what would be removed. The newest saves to resume from always stay."
        ),
        forms=("RUN_DIR [RUN_DIR ...]",),
        paths=Paths(help=_RUN_DIRECTORIES, metavar="RUN_DIR"),
        kinds=(PruneOptions, PruneFlags),
        examples=(
            "zeroconsolidate prune run                         what would be removed",
            "zeroconsolidate prune run --keep 2 --yes",
            "zeroconsolidate prune run --remove checkpoint --yes",
        ),
        continues=True,
    ),
    "env": Verb(
        about="print what a report of a bug needs: versions, file system, limits",
        description=(
            "Print the versions of Python and of all packages that can play a part, the file system of the working\n"
            "directory, processors and limits. Of environment variables it is only said that they are set."
        ),
        forms=("",),
        paths=None,
        kinds=(NoOptions, EnvFlags),
        examples=("zeroconsolidate env", "zeroconsolidate env --json"),
    ),
    "completion": Verb(
        about="print a script with which a shell completes commands and options",
        description=(
            "Print the script that completes commands, options and their values in a shell. "
            "Write it to where the shell\n"
            "reads such files, once; after an update, again."
        ),
        forms=("|".join(SHELLS),),
        paths=Paths(help=f"the shell: {', '.join(SHELLS)}", metavar="SHELL"),
        kinds=(NoOptions, CompletionFlags),
        examples=(
            "zeroconsolidate completion bash > ~/.local/share/bash-completion/completions/zeroconsolidate",
            'zeroconsolidate completion zsh > "${fpath[1]}/_zeroconsolidate"',
            "zeroconsolidate completion fish > ~/.config/fish/completions/zeroconsolidate.fish",
        ),
    ),
}
