"""The options of `universal`, as a dataclass. To add an option, add a field: this is the only place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from .common import Recorded, check, digest, drop_cache, fill, reflink, refuse_fill_alone, replicas, restart
from .declaration import Group, option
from .mapped import EVERYTHING_HERE, Mapped

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike


@dataclass(frozen=True, kw_only=True)
class UniversalOptions(Recorded):
    """The options of `universal`."""

    rescue: bool = option(
        False,
        "write an incomplete checkpoint, too: with 16-bit copies, or else values of {fill}, in place of lost master "
        "weights, and values of {fill}, or else zeros, in place of what the optimizer kept of them",
        group=Group.INCOMPLETE,
        decides="bytes",
    )
    fill: str | PathLike[str] | Sequence[str | PathLike[str]] = fill("checkpoint or model directory of an earlier step")
    reflink: Literal["auto", "always", "never"] = reflink("tensors and files")
    drop_cache: bool = drop_cache()
    restart: bool = restart()
    digest: Literal["sha256", "xxh3"] | None = digest()
    check: Literal["sample", "all", "none"] = check()
    replicas: Literal["equal", "first"] = replicas()

    overwrite: ClassVar[bool] = False
    """Never: files of two universal checkpoints in one folder would be loaded together."""
    executor: ClassVar[None] = None
    """One machine writes it."""
    places: ClassVar[Mapped] = EVERYTHING_HERE
    """Nor in parts."""
    workers: ClassVar[int] = 1
    """Everything is copied."""
    partial: ClassVar[bool] = False
    """Never: an engine needs every parameter."""

    def __post_init__(self) -> None:
        Recorded.__post_init__(self)
        refuse_fill_alone(self.fill, rescue=self.rescue)
