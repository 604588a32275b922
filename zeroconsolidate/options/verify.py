"""The options of `verify`, as a dataclass. To add an option, add a field: this is the only place."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from .common import Working, directory_of
from .declaration import Group, option
from .steps import Transform, steps
from .values import worker_count

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike


@dataclass(frozen=True, kw_only=True)
class Checking(Working):
    """The options of checking a checkpoint."""

    workers: int | Literal["auto"] = option(
        "auto",
        "how many threads read and compare at the same time; by default one for each processor. The result is the same "
        "with any number",
        group=Group.CHECKING,
        metavar="N|auto",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "workers", worker_count(self.workers))


@dataclass(frozen=True, kw_only=True)
class VerifyOptions(Checking):
    """The options of `verify`."""

    against: str | PathLike[str] | Sequence[str | PathLike[str]] | None = option(
        None,
        "compare the output with this checkpoint, byte for byte, whatever tool wrote it; the options it was written "
        "with are read from its manifest; without a manifest, every tensor is expected",
        group=Group.CHECKING,
        metavar="CHECKPOINT",
        repeatable=True,
        is_path=True,
    )
    base: str | PathLike[str] | None = option(
        None,
        "with {against}: the original model that the output was written with, a directory or a hub id",
        group=Group.CHECKING,
        metavar="DIR|ID",
        is_path=True,
    )

    transforms: Sequence[Transform] = option(
        (),
        "with {against}: the transformations of your own that the output was written with",
        group=Group.CHECKING,
        flag=None,
    )

    def __post_init__(self) -> None:
        Working.__post_init__(self)
        object.__setattr__(self, "transforms", steps(self.transforms))

    @cached_property
    def base_directory(self) -> str | None:
        """`base` as a directory, looked up when this is first asked for."""
        return directory_of(self.base)
