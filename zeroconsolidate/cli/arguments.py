"""From the options declared in `options`, and the few below that only the command has, to the argument parser."""

from __future__ import annotations

import argparse
from dataclasses import fields
from itertools import groupby
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from .._version import __version__
from ..errors import BadOption, Parts
from ..options import (
    CompareOptions,
    InspectOptions,
    Options,
    PruneOptions,
    UniversalOptions,
    VerifyOptions,
    WatchOptions,
    declarations,
    read_as,
)
from .exit_codes import ExitCode
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

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Unpack

    from ..options import Declaration

Flags = TypeVar("Flags")


VERBS: dict[str, tuple[type, type]] = {
    "convert": (Options, ModelFlags),
    "universal": (UniversalOptions, ConvertFlags),
    "inspect": (InspectOptions, InspectFlags),
    "verify": (VerifyOptions, VerifyFlags),
    "compare": (CompareOptions, CompareFlags),
    "watch": (WatchOptions, WatchFlags),
    "prune": (PruneOptions, PruneFlags),
    "env": (NoOptions, EnvFlags),
    "completion": (NoOptions, CompletionFlags),
}
"""Command -> its options: those that Python has too, and its own."""

WRITING = ("convert", "universal")
"""Commands that take an OUTPUT as their last path."""
SHELLS = ("bash", "zsh", "fish")
"""Shells for which there is a completion."""
CONTINUING = (*WRITING, "watch", "prune")
"""Commands that continue what was interrupted."""

USAGE = {
    "convert": ("CHECKPOINT [CHECKPOINT ...] OUTPUT",),
    "universal": ("CHECKPOINT [CHECKPOINT ...] OUTPUT",),
    "inspect": ("CHECKPOINT [CHECKPOINT ...]", "RUN_DIR [RUN_DIR ...]"),
    "verify": ("OUTPUT", "OUTPUT CHECKPOINT [CHECKPOINT ...]", "CHECKPOINT [CHECKPOINT ...]"),
    "compare": ("A B",),
    "watch": ("RUN_DIR [RUN_DIR ...] [PATTERN]",),
    "prune": ("RUN_DIR [RUN_DIR ...]",),
    "env": ("",),
    "completion": ("bash|zsh|fish",),
}
"""Command -> the forms of its arguments."""

_EXAMPLES = {
    "convert": (
        "zeroconsolidate convert checkpoint-500 my-model",
        "zeroconsolidate convert checkpoint-500 my-model --dtype bf16 --max-shard-size 5GB",
        "zeroconsolidate convert checkpoint-500 my-model --lora merge --base Qwen/Qwen2.5-7B",
        "zeroconsolidate convert checkpoint-500 my-model --part 3/16       in each of 16 jobs; then once --finish",
    ),
    "universal": (
        "zeroconsolidate universal checkpoint-500 resume-500",
        "zeroconsolidate universal checkpoint-500 resume-500 --dry-run",
    ),
    "inspect": (
        "zeroconsolidate inspect checkpoint-500",
        "zeroconsolidate inspect run                       all saves of a run, and where it can resume",
        "zeroconsolidate inspect checkpoint-500 --tensors",
    ),
    "verify": (
        "zeroconsolidate verify my-model                   headers, index, sizes, config, names, digests",
        "zeroconsolidate verify my-model checkpoint-500    byte for byte, whatever tool wrote my-model",
        "zeroconsolidate verify checkpoint-500             checksums, ranks, NaN, 16-bit copies",
    ),
    "compare": (
        "zeroconsolidate compare checkpoint-500 Qwen/Qwen2.5-7B           what training changed",
        "zeroconsolidate compare checkpoint-500 checkpoint-1000           two steps",
        "zeroconsolidate compare my-model checkpoint-500 --tolerance 1%   a model that another tool wrote",
    ),
    "watch": (
        "zeroconsolidate watch run                         models in run-models/checkpoint-500 and so on",
        "zeroconsolidate watch run 'models/{name}' --dtype bf16 --keep 3",
        "zeroconsolidate watch run 'models/{step}' --until-step 10000 --idle 3600",
    ),
    "prune": (
        "zeroconsolidate prune run                         what would be removed",
        "zeroconsolidate prune run --keep 2 --yes",
        "zeroconsolidate prune run --remove checkpoint --yes",
    ),
    "env": ("zeroconsolidate env", "zeroconsolidate env --json"),
    "completion": (
        "zeroconsolidate completion bash > ~/.local/share/bash-completion/completions/zeroconsolidate",
        'zeroconsolidate completion zsh > "${fpath[1]}/_zeroconsolidate"',
        "zeroconsolidate completion fish > ~/.config/fish/completions/zeroconsolidate.fish",
    ),
}


def parser() -> argparse.ArgumentParser:
    """The parser. Its result has `verb`, and an attribute for every flag that was given."""
    width = max(len(str(code.value)) for code in ExitCode)
    codes = "\n".join(f"  {code.value:>{width}}  {code.meaning.replace('`', '')}" for code in ExitCode)
    whole = _Parser(
        prog="zeroconsolidate",
        usage="zeroconsolidate COMMAND [OPTION ...] PATH ...",
        description="Turn a DeepSpeed ZeRO checkpoint into a model directory that loads.",
        epilog=f"exit codes:\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument("--version", action="version", version=f"zeroconsolidate {__version__}")
    verbs = whole.add_subparsers(required=True, metavar="COMMAND", dest="verb")

    def add(verb: str, about: str, description: str) -> argparse.ArgumentParser:
        examples = "\n".join(f"  {line}" for line in _EXAMPLES[verb])
        forms = [f"zeroconsolidate {verb} [OPTION ...] {form}".rstrip() for form in USAGE[verb]]
        return verbs.add_parser(
            verb,
            help=about,
            usage="\n       ".join(forms),
            description=description,
            epilog=f"examples:\n{examples}\n\nexit codes:\n{codes}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    convert = add(
        "convert",
        "write the model of a checkpoint, to load or upload it",
        "Write the model of a checkpoint into a directory that loads.\n"
        "If the conversion is interrupted, run the same command again: it continues where it stopped.",
    )
    _checkpoint(convert)
    _output(convert)
    add_options(convert, *VERBS["convert"])

    universal = add(
        "universal",
        "write a universal checkpoint, to resume on other ranks or at another stage",
        "Write a universal checkpoint, from which DeepSpeed resumes at another world size or ZeRO stage:\n"
        'engine.load_checkpoint(OUTPUT), with {"checkpoint": {"load_universal": true}} in its config.\n'
        "If it is interrupted, run the same command again: it continues where it stopped.",
    )
    _checkpoint(universal)
    _output(universal)
    add_options(universal, *VERBS["universal"])

    inspect = add(
        "inspect",
        "print what a checkpoint holds, or the saves of a run, and where training can resume",
        "Print what a checkpoint holds, or which saves a run directory has, and from where training can resume.\n"
        "Only metadata is read, which takes a moment for a model of any size.",
    )
    _checkpoint(inspect)
    add_options(inspect, *VERBS["inspect"])

    verify = add(
        "verify",
        "check a model, a checkpoint, or a model against its checkpoint",
        "Check one of these:\n"
        "  a model directory: headers, index, sizes, config, names, digests of the manifest;\n"
        "  a model directory against its checkpoint, byte for byte;\n"
        "  a checkpoint: checksums, agreement of ranks, NaN, master weights against 16-bit copies.",
    )
    verify.add_argument(
        "paths",
        metavar="OUTPUT, CHECKPOINT",
        nargs="*",
        help="a model directory, whatever tool wrote it; a checkpoint; or both",
    )
    add_options(verify, *VERBS["verify"])

    compare = add(
        "compare",
        "compare two models: what differs, by how much, and what is suspicious",
        "Compare two models, tensor by tensor. Each is a checkpoint, a model directory, an adapter or a hub id.\n"
        "Names are matched as a loader would; tensors of different dtypes are compared by value.",
    )
    compare.add_argument(
        "paths",
        metavar="A, B",
        nargs="*",
        help="a checkpoint, a model directory, an adapter, or the id of a model on the hub",
    )
    add_options(compare, *VERBS["compare"])

    watch = add(
        "watch",
        "convert each save of a run as it appears",
        "Convert each save of a training run when all ranks have written it. The training is not changed for it.\n"
        "Ended and started again, it goes on where it was: what was converted is not converted again.",
    )
    _run_directory(watch, "; then, with {name} or {step} in it, where the models are written")
    add_options(watch, *VERBS["watch"])

    prune = add(
        "prune",
        "free disk space: remove what resuming no longer needs",
        "Remove the optimizer's files of older saves, once their models are verified; or whole saves.\n"
        "Without --yes, only print what would be removed. The newest saves to resume from always stay.",
    )
    _run_directory(prune)
    add_options(prune, *VERBS["prune"])

    env = add(
        "env",
        "print what a report of a bug needs: versions, file system, limits",
        "Print the versions of Python and of all packages that can play a part, the file system of the working\n"
        "directory, processors and limits. Of environment variables it is only said that they are set.",
    )
    add_options(env, *VERBS["env"])

    completion = add(
        "completion",
        "print a script with which a shell completes commands and options",
        "Print the script that completes commands, options and their values in a shell. Write it to where the shell\n"
        "reads such files, once; after an update, again.",
    )
    completion.add_argument("roots", metavar="SHELL", nargs="*", help=f"the shell: {', '.join(SHELLS)}")
    add_options(completion, *VERBS["completion"])
    return whole


class _Parser(argparse.ArgumentParser):
    """A parser that raises errors and does not print them."""

    def error(self, message: str) -> NoReturn:
        raise Misuse(message, usage=self.format_usage())


class Misuse(BadOption):
    """The command line cannot be understood."""

    def __init__(self, message: str, *, usage: str = "", **parts: Unpack[Parts]) -> None:
        super().__init__(message, **parts)
        self.usage = usage
        """The forms that there are, where that helps."""


def _checkpoint(verb: argparse.ArgumentParser) -> None:
    # How many there must be is checked afterwards: argparse says it in fifteen lines.
    verb.add_argument(
        "roots",
        metavar="CHECKPOINT",
        nargs="*",
        help="a Trainer's checkpoint-N, a folder global_stepN, or a run directory; several if nodes saved to their own "
        "disks",
    )


def _run_directory(verb: argparse.ArgumentParser, then: str = "") -> None:
    verb.add_argument(
        "roots",
        metavar="RUN_DIR",
        nargs="*",
        help="a directory with checkpoint-500 and so on, or of tags; several if nodes saved to their own disks" + then,
    )


def _output(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("output", metavar="OUTPUT", nargs="?", help="directory to write; it must be empty, or not exist")


def add_options(verb: argparse.ArgumentParser, *kinds: type) -> None:
    """Add the flags of all options that `kinds` declare, each under the heading of its group.

    None has a default here: what was not given is not in the namespace, and the dataclass's default holds.
    """
    declared = [each for each in declarations(*kinds) if each.flags]
    flags = {each.name: each.flags[0] for each in declared}

    def shown(text: str) -> str:
        return read_as(text, flags.__getitem__).replace("`", "").replace("%", "%%")

    for group, several in groupby(declared, key=lambda each: each.group):
        heading = verb.add_argument_group(group.value)
        for each in several:
            _add(heading, each, shown)


def _add(group: argparse._ArgumentGroup, declared: Declaration, shown: Callable[[str], str]) -> None:
    if declared.flag is not None:
        notes = [
            *([f"default: {declared.default}"] if declared.default not in (None, ()) else []),
            *(["can be repeated"] if declared.repeatable else []),
        ]
        said = shown(declared.help) + (f" [{'; '.join(notes)}]" if notes else "")
        how: dict[str, Any] = {
            "action": "append" if declared.repeatable else "store",
            "metavar": declared.metavar,
            "choices": declared.choices or None,
        }
        _spell(group, declared, declared.flag, said, how)
    switches = group if len(declared.switches) < 2 else group.add_mutually_exclusive_group()
    for switch in declared.switches:
        how = {"action": "store_const", "const": switch.value}
        _spell(switches, declared, switch.flag, shown(switch.help), how)


def _spell(group: argparse._ActionsContainer, declared: Declaration, flag: str, said: str, how: dict[str, Any]) -> None:
    """Add a flag. Other spellings of an option's first flag are understood; only that of one letter is listed."""
    how = how | {"dest": declared.name, "default": argparse.SUPPRESS}
    is_first = flag == declared.flags[0]
    letter = [declared.short] if is_first and declared.short else []
    group.add_argument(*letter, flag, help=said, **how)
    if is_first and declared.also:
        group.add_argument(*declared.also, help=argparse.SUPPRESS, **how)


def given_of(kind: type, given: argparse.Namespace) -> dict[str, Any]:
    """The options of `kind` that were given, as Python's keywords."""
    return {each.name: getattr(given, each.name) for each in fields(kind) if hasattr(given, each.name)}


def flags_of(kind: type[Flags], given: argparse.Namespace) -> Flags:
    """The flags that only the command has, as a dataclass of `kind`."""
    return kind(**given_of(kind, given))
