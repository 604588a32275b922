"""`compare`: what it takes, and what its help says."""

from __future__ import annotations

from dataclasses import dataclass

from ...options import CompareOptions, Group, option
from ...options.answers import POOLING_HELP, POOLINGS
from .flags import debug, html_flag
from .verb import Paths, Verb


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


VERB = Verb(
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
)
