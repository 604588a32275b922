"""The command's arguments: flags are made of the declarations in `options`, and of what only the command has."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

from .._version import __version__
from ..options import Group, Opening, Options, VerifyOptions, declarations, option, read_as
from .exit_codes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from ..options import Declaration

Chosen = TypeVar("Chosen", bound=Opening)


@dataclass(frozen=True, kw_only=True)
class ConvertArguments(Options):
    """The flags of `convert`."""

    dry_run: bool = option(
        False, "print what the conversion would read, write and need, and write nothing", group=Group.PRINTING
    )
    quiet: bool = option(False, "no progress bar, no report", group=Group.PRINTING)
    json: bool = option(False, "print the report as one JSON object", group=Group.PRINTING)


@dataclass(frozen=True, kw_only=True)
class InspectArguments(Opening):
    """The flags of `inspect`."""

    tensors: bool = option(False, "list every tensor", group=Group.PRINTING)
    json: bool = option(False, "print one JSON object", group=Group.PRINTING)


@dataclass(frozen=True, kw_only=True)
class VerifyArguments(VerifyOptions):
    """The flags of `verify`."""

    source: str | PathLike[str] | Sequence[str | PathLike[str]] | None = option(
        None,
        "check this checkpoint, in place of an output",
        group=Group.CHECKING,
        metavar="CHECKPOINT",
        repeatable=True,
    )
    quiet: bool = option(False, "no progress bar, print problems only", group=Group.PRINTING)
    json: bool = option(False, "print the result as one JSON object", group=Group.PRINTING)


VERBS = {"convert": ConvertArguments, "inspect": InspectArguments, "verify": VerifyArguments}
"""What each verb of the command takes."""


def parser() -> argparse.ArgumentParser:
    """The whole command; what is parsed has `verb`, and an attribute for every flag that was given."""
    codes = "\n".join(f"  {code.value:>3}  {code.meaning.replace('`', '')}" for code in ExitCode)
    whole = argparse.ArgumentParser(
        prog="zeroconsolidate",
        description="Turn a DeepSpeed ZeRO checkpoint into a model directory that loads.",
        epilog=f"exit codes:\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument("--version", action="version", version=__version__)
    verbs = whole.add_subparsers(required=True, metavar="COMMAND", dest="verb")

    convert = verbs.add_parser("convert", help="write the model", description="Write the model of a checkpoint.")
    _checkpoint(convert)
    convert.add_argument("output", metavar="OUTPUT", help="directory to write; must not exist, or be empty")
    add_options(convert, ConvertArguments)

    inspect = verbs.add_parser("inspect", help="tell what a checkpoint holds", description="Read metadata only.")
    _checkpoint(inspect)
    add_options(inspect, InspectArguments)

    verify = verbs.add_parser(
        "verify",
        help="check an output or a checkpoint",
        description="Check OUTPUT by itself (headers, index, sizes, config, digests of the manifest), OUTPUT byte for "
        "byte with a checkpoint, or a checkpoint (checksums, agreement, copies, NaN). Exit code 1: something is wrong.",
    )
    verify.add_argument("output", metavar="OUTPUT", nargs="?", help="model directory, whatever tool wrote it")
    add_options(verify, VerifyArguments)
    return whole


def _checkpoint(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        nargs="+",
        help="checkpoint-N, or a folder global_stepN; several for nodes' own disks",
    )


def add_options(verb: argparse.ArgumentParser, kind: type) -> None:
    """Add the flags of all options that `kind` declares, each under the heading of its group.

    None has a default here: what was not given is not in the namespace, and the dataclass's default holds.
    """
    declared = {each.name: each for each in declarations(kind) if each.flags}
    headings = {each.group: verb.add_argument_group(each.group.value) for each in declared.values()}
    for each in declared.values():
        _add(headings[each.group], each, {name: other.flags[0] for name, other in declared.items()})


def _add(group: argparse._ArgumentGroup, declared: Declaration, flags: dict[str, str]) -> None:
    def shown(text: str) -> str:
        return read_as(text, flags.__getitem__).replace("`", "").replace("%", "%%")

    if declared.flag is not None:
        notes = [
            *([f"default: {declared.default}"] if declared.default not in (None, ()) else []),
            *(["can be repeated"] if declared.repeatable else []),
        ]
        group.add_argument(
            declared.flag,
            dest=declared.name,
            default=argparse.SUPPRESS,
            action="append" if declared.repeatable else "store",
            metavar=declared.metavar,
            choices=declared.choices or None,
            help=shown(declared.help) + (f" [{'; '.join(notes)}]" if notes else ""),
        )
    switches = group if len(declared.switches) < 2 else group.add_mutually_exclusive_group()
    for switch in declared.switches:
        switches.add_argument(
            switch.flag,
            dest=declared.name,
            default=argparse.SUPPRESS,
            action="store_const",
            const=switch.value,
            help=shown(switch.help),
        )


def chosen(kind: type[Chosen], given: argparse.Namespace) -> Chosen:
    """The options that were given, as `kind`. Raises BadOption."""
    return kind(**{each.name: getattr(given, each.name) for each in fields(kind) if hasattr(given, each.name)})


def as_keywords(options: Opening, kind: type) -> dict[str, Any]:
    """Those of the options that `kind` declares: what a verb in Python takes."""
    return {each.name: getattr(options, each.name) for each in fields(kind)}
