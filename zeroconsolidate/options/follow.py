"""The options of `watch`, of background runs and of callbacks, as dataclasses. To add an option, add a field."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from ..errors import BadOption
from .convert import Options
from .declaration import Group, option


@dataclass(frozen=True, kw_only=True)
class FollowOptions(Options):
    """The options of a conversion that happens beside a training."""

    verify: bool = option(
        False, "compare each model with its checkpoint, byte for byte, once it is written", group=Group.CHECKING
    )
    keep: str | int | None = option(
        None,
        "keep so many of the models that were written this way, and remove older ones; without this option, all",
        group=Group.OUTPUT,
        metavar="N",
    )
    prune: str | int | None = option(
        None,
        "after each conversion, remove the optimizer's files of all but so many of the newest saves, as "
        "`zeroconsolidate prune --keep N --yes` does: only of those whose models are verified",
        group=Group.CHECKPOINT,
        metavar="N",
    )

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        for name in ("keep", "prune"):
            value = getattr(self, name)
            if value is not None:
                if not str(value).isdecimal() or int(value) < 1:
                    raise BadOption(f"--{name} takes a number, at least 1", found=repr(value))
                object.__setattr__(self, name, int(value))
        if self.checkpoint is not None or self.restart:
            named = "--checkpoint" if self.checkpoint is not None else "--restart"
            raise BadOption(f"{named} makes no sense here: every save is converted once")
        if self.average is not None:
            raise BadOption("--average makes no sense here: every save is converted by itself")

    @property
    def kept_models(self) -> int | None:
        """`keep` as a number."""
        return None if self.keep is None else int(self.keep)

    @property
    def kept_saves(self) -> int | None:
        """`prune` as a number."""
        return None if self.prune is None else int(self.prune)

    def of_conversion(self) -> dict[str, Any]:
        """The options that `consolidate` takes, as keywords. The others are decided for each save."""
        chosen = {each.name: getattr(self, each.name) for each in fields(Options)}
        for name in ("tag", "checkpoint", "restart", "overwrite"):
            del chosen[name]
        return chosen


@dataclass(frozen=True, kw_only=True)
class BackgroundOptions(FollowOptions):
    """The options of one conversion in the background."""

    patience: float = option(
        3600.0,
        "give up if not all ranks have written after so many seconds",
        group=Group.CHECKPOINT,
        metavar="SECONDS",
    )
    niceness: int = option(
        19,
        "how little of the processor it takes where others want it, from 0 (as much as others) to 19 (what they leave)",
        group=Group.PRINTING,
        metavar="N",
    )


@dataclass(frozen=True, kw_only=True)
class WatchOptions(FollowOptions):
    """The options of `watch`."""

    until_step: str | int | None = option(
        None, "end when a save of this step, or of a later one, has been converted", group=Group.CHECKPOINT, metavar="N"
    )
    idle: str | float | None = option(
        None,
        "end when nothing has been written for so many seconds; without this option, only a signal ends it",
        group=Group.CHECKPOINT,
        metavar="SECONDS",
    )
    interval: str | float = option(
        10.0, "seconds between two readings of the directory", group=Group.CHECKPOINT, metavar="SECONDS"
    )

    def __post_init__(self) -> None:
        FollowOptions.__post_init__(self)
        for name in ("idle", "interval"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _seconds(name, value))
        if self.until_step is not None:
            if not str(self.until_step).isdecimal():
                raise BadOption("--until-step takes a step, such as 500", found=repr(self.until_step))
            object.__setattr__(self, "until_step", int(self.until_step))

    @property
    def last_step(self) -> int | None:
        """`until_step` as a number."""
        return None if self.until_step is None else int(self.until_step)

    @property
    def idle_seconds(self) -> float | None:
        """`idle` as a number."""
        return None if self.idle is None else float(self.idle)

    @property
    def interval_seconds(self) -> float:
        """`interval` as a number."""
        return float(self.interval)


def _seconds(name: str, value: object) -> float:
    try:
        seconds = float(str(value))
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise BadOption(f"--{name} takes a number of seconds", found=repr(value))
    return seconds
