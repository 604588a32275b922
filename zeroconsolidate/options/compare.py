"""The options of `compare`, as a dataclass. To add an option, add a field: this is the only place."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from .common import Counting, Reporting, directory_of
from .declaration import Group, option
from .values import parse_tolerance

if TYPE_CHECKING:
    from os import PathLike

    from .values import Tolerance


@dataclass(frozen=True, kw_only=True)
class CompareOptions(Counting, Reporting):
    """The options of `compare`."""

    tolerance: str | float | None = option(
        None,
        "the largest difference of two elements that still counts as equal: a number such as `1e-6`, or a share of the "
        "larger of both such as `0.5%`; without this option elements must be equal, after rounding to the narrower "
        "dtype of the two",
        group=Group.CHECKING,
        metavar="NUMBER[%]",
    )
    base: str | PathLike[str] | None = option(
        None,
        "the original model of an adapter or a LoRA run, a directory or a hub id: it is compared as the merged model",
        group=Group.ADAPTERS,
        metavar="DIR|ID",
        is_path=True,
    )

    def __post_init__(self) -> None:
        Reporting.__post_init__(self)
        if self.tolerance is not None:
            parse_tolerance(self.tolerance)

    @property
    def allowed(self) -> Tolerance | None:
        """`tolerance` as a number."""
        return None if self.tolerance is None else parse_tolerance(self.tolerance)

    @cached_property
    def base_directory(self) -> str | None:
        """`base` as a directory, looked up when this is first asked for."""
        return directory_of(self.base)
