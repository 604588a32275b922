"""The options of `compare_answers`, as a dataclass. To add an option, add a field: this is the only place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .common import Reporting
from .declaration import Group, option

if TYPE_CHECKING:
    from os import PathLike

POOLINGS = ("cls", "mean", "last")
POOLING_HELP = (
    "of an embedding model that is loaded by transformers alone, which hidden states make the vector: of the first "
    "token (`cls`), of the last (`last`), or their mean; without this option, what the directory says, else `cls` for "
    "encoders and `last` for decoders"
)


@dataclass(frozen=True, kw_only=True)
class AnswersOptions(Reporting):
    """The options of `compare_answers`. The command has them under other names."""

    texts: str | PathLike[str] | None = option(
        None,
        "a file with a JSON value in each line: a text, an object with `text`, or one with `query` and `passage`; "
        "without this option, a few texts in several languages",
        group=Group.CHECKING,
        flag=None,
        is_path=True,
    )
    record: str | PathLike[str] | None = option(
        None,
        "write the answers of the first model into this file, which can stand for the model later",
        group=Group.CHECKING,
        flag=None,
        is_path=True,
    )
    pooling: Literal["cls", "mean", "last"] | None = option(
        None, POOLING_HELP, group=Group.CHECKING, flag=None, choices=POOLINGS
    )
