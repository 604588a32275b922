"""The flags of each command that Python's functions do not have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..options import Group, option
from ..options.answers import POOLING_HELP, POOLINGS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike


def html_flag(what: str) -> str | None:
    """`--html`, which several commands have: a field belongs to one class, so each makes its own."""
    return option(
        None,
        f"write {what} as a page, one HTML file that needs no network",
        group=Group.PRINTING,
        metavar="REPORT.html",
    )


def debug() -> bool:
    """A field belongs to one class, so each makes its own."""
    return option(
        False,
        "show the traceback behind an error, as the environment variable `ZEROCONSOLIDATE_DEBUG=1` does",
        group=Group.PRINTING,
    )


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


@dataclass(frozen=True, kw_only=True)
class InspectFlags:
    """Flags of `inspect` that Python does not have."""

    tensors: bool = option(False, "list every tensor", group=Group.PRINTING)
    json: bool = option(False, "print the result, or the error, as one JSON object", group=Group.PRINTING)
    html: str | None = html_flag("what the checkpoint holds")
    debug: bool = debug()


@dataclass(frozen=True, kw_only=True)
class VerifyFlags:
    """Flags of `verify` that Python does not have."""

    source: str | PathLike[str] | Sequence[str | PathLike[str]] | None = option(
        None,
        "check this directory as a checkpoint, even if it also has the files of an output",
        group=Group.CHECKING,
        metavar="CHECKPOINT",
        repeatable=True,
    )
    tensors: bool = option(
        False,
        "with OUTPUT and CHECKPOINT: list every tensor with a mark in front: = equal, * other values, + only in the "
        "output, - only in the checkpoint, ! another shape or dtype, ? not read",
        group=Group.PRINTING,
    )
    quiet: bool = option(False, "print only problems, and no progress", group=Group.PRINTING, short="-q")
    json: bool = option(False, "print the result, or the error, as one JSON object", group=Group.PRINTING)
    html: str | None = html_flag("the result")
    debug: bool = debug()


@dataclass(frozen=True, kw_only=True)
class CompareFlags:
    """Flags of `compare` that Python does not have: there `compare_answers` is a function of its own."""

    answers: str | None = option(
        None,
        "compare the answers of both models in place of their weights: to the texts in this file, a JSON value in each "
        "line, or with `default` to a few texts in several languages; A may be a file that {record} wrote",
        group=Group.CHECKING,
        metavar="FILE.jsonl|default",
    )
    record: str | None = option(
        None,
        "with {answers}: keep the answers of A in this file, to compare with later without A",
        group=Group.CHECKING,
        metavar="FILE.json",
    )
    agreement: str | None = option(
        None,
        "with {answers}: the exit code is 1 if the models agree less than this on any text, such as `0.99`",
        group=Group.CHECKING,
        metavar="SHARE",
    )
    pooling: str | None = option(None, f"with {{answers}}: {POOLING_HELP}", group=Group.CHECKING, choices=POOLINGS)
    tensors: bool = option(False, "list every tensor", group=Group.PRINTING)
    quiet: bool = option(False, "print nothing if both are equal, and no progress", group=Group.PRINTING, short="-q")
    json: bool = option(False, "print the result, or the error, as one JSON object", group=Group.PRINTING)
    html: str | None = html_flag("the comparison")
    debug: bool = debug()


@dataclass(frozen=True, kw_only=True)
class WatchFlags:
    """Flags of `watch` that Python does not have."""

    quiet: bool = option(False, "print only what was not converted", group=Group.PRINTING, short="-q")
    json: bool = option(False, "print a JSON object a save, each in one line", group=Group.PRINTING)
    debug: bool = debug()


@dataclass(frozen=True, kw_only=True)
class PruneFlags:
    """Flags of `prune` that Python does not have."""

    quiet: bool = option(False, "print no report and no progress", group=Group.PRINTING, short="-q")
    json: bool = option(False, "print the result, or the error, as one JSON object", group=Group.PRINTING)
    debug: bool = debug()


@dataclass(frozen=True, kw_only=True)
class EnvFlags:
    """Flags of `env`."""

    json: bool = option(False, "print it as one JSON object", group=Group.PRINTING)
    debug: bool = debug()


@dataclass(frozen=True, kw_only=True)
class CompletionFlags:
    """Flags of `completion`."""

    debug: bool = debug()


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """The options of a command that has none."""
