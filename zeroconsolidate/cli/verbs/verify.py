"""`verify`: what it takes, and what its help says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...options import Group, VerifyOptions, option
from .flags import debug, html_flag
from .verb import Paths, Verb

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike


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


VERB = Verb(
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
)
