"""The options of `prune`, as a dataclass. To add an option, add a field: this is the only place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..errors import BadOption
from .common import Counting, Reporting
from .declaration import Group, option

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike


@dataclass(frozen=True, kw_only=True)
class PruneOptions(Counting, Reporting):
    """The options of `prune`."""

    keep: str | int = option(
        2,
        "leave so many of the newest saves that a training can resume from as they are, at least 1",
        group=Group.CHECKPOINT,
        metavar="N",
    )
    remove: Literal["optimizer", "checkpoint"] = option(
        "optimizer",
        "what to remove of older saves: the optimizer's files, which also hold the master weights (`optimizer`), or "
        "everything (`checkpoint`)",
        group=Group.CHECKPOINT,
        choices=("optimizer", "checkpoint"),
    )
    models: str | PathLike[str] | Sequence[str | PathLike[str]] = option(
        (),
        "where the converted models are: a model, or a directory of models; without this option, the run directory, "
        "and the directory with `-models` after its name",
        group=Group.CHECKPOINT,
        metavar="DIR",
        repeatable=True,
        is_path=True,
    )
    base: str | PathLike[str] | None = option(
        None,
        "the original model that the models were written with, a directory or a hub id",
        group=Group.CHECKING,
        metavar="DIR|ID",
        is_path=True,
    )
    unconverted: bool = option(
        False,
        "with `{remove}` `checkpoint`: also remove saves that were not converted; their weights are lost",
        group=Group.CHECKPOINT,
    )
    yes: bool = option(
        False,
        "remove it; without this option, nothing is removed, and what would be is only said",
        group=Group.OUTPUT,
    )

    def __post_init__(self) -> None:
        Reporting.__post_init__(self)
        if not str(self.keep).isdecimal() or int(self.keep) < 1:
            raise BadOption("--keep takes a number of saves, at least 1", found=repr(self.keep))
        object.__setattr__(self, "keep", int(self.keep))
        if self.unconverted and self.remove != "checkpoint":
            raise BadOption(
                "--unconverted is used only with --remove checkpoint",
                expected="--remove checkpoint as well",
                consequence="the optimizer's files are all that is left of the master weights of such a save",
            )

    @property
    def kept_saves(self) -> int:
        """`keep` as a number."""
        return int(self.keep)
