"""What the options of several verbs have in common: base classes, and fields that two verbs declare alike."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..errors import BadOption
from ..integrations.records import record
from .declaration import Group, Switch, in_order, option
from .urls import plain, real, refuse_urls
from .values import as_plain, roots_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from os import PathLike

# Types are written out, as `help` and the reference show them. No slots, for `cached_property`: there is one of
# these for each call of a verb.


@dataclass(frozen=True, kw_only=True)
class Declared:
    """A set of options. It checks their values when it is made. Raises BadOption."""

    def __post_init__(self) -> None:
        for declared in in_order(type(self)):
            # A frozen dataclass has no other way to keep a value in another form than it was given in.
            object.__setattr__(self, declared.name, declared.normal(getattr(self, declared.name)))


@dataclass(frozen=True, kw_only=True)
class Opening(Declared):
    """The options of opening a checkpoint."""

    tag: str | None = option(
        None,
        "which save to read: a tag such as `global_step500`, or `last-complete` for the newest complete one; without "
        "this option, the one named in the file `latest`",
        group=Group.CHECKPOINT,
        short="-t",
        metavar="TAG",
    )
    checkpoint: str | int | None = option(
        None,
        "which save of a run directory, or of a folder of tags, to read: `last-complete` for the newest complete one, "
        "`last` for the newest, `best` for the one that the trainer calls so, or a step such as `500`",
        group=Group.CHECKPOINT,
        metavar="WHICH",
    )


@dataclass(frozen=True, kw_only=True)
class Reporting(Declared):
    """Options of functions that may take a while."""

    progress: Callable[[int, int], None] | None = option(
        None,
        "a function that is called with the bytes done so far and the bytes in all",
        group=Group.PRINTING,
        flag=None,
    )
    status: Callable[[str], None] | None = option(
        None,
        "a function that is called at the beginning of each step with its name, such as `copying`",
        group=Group.PRINTING,
        flag=None,
    )

    def doing(self, what: str) -> None:
        """Report that `what` begins: to the `status` function, if there is one, and to the log."""
        record("debug", (what,))
        if self.status is not None:
            self.status(what)


@dataclass(frozen=True, kw_only=True)
class Counting(Declared):
    """The option of functions that read the metadata of checkpoints."""

    files_read: Callable[[int, int], None] | None = option(
        None,
        "a function that is called while metadata are read, with the number of files read so far and that of all; "
        "where several checkpoints are read, each is counted by itself",
        group=Group.PRINTING,
        flag=None,
    )


@dataclass(frozen=True, kw_only=True)
class Working(Counting, Reporting, Opening):
    """Options of functions that open a checkpoint and may take a while."""


@dataclass(frozen=True, kw_only=True)
class Recorded(Working):
    """Options of which those that decide bytes are recorded: for a run that continues, and in the manifest."""

    def plain(self, called: Callable[[str], str] = str) -> dict[str, Any]:
        """What decides bytes, as values that JSON can hold: for the fingerprint. A callable is named. `called`: what a
        directory is called on the machine that began."""
        chosen = {}
        for declared in in_order(type(self)):
            if declared.decides != "nothing":
                value = self._decided(declared.name)
                chosen[declared.name] = as_plain(value, (lambda path: called(real(path))) if declared.is_path else None)
        return chosen

    def for_manifest(self) -> dict[str, Any]:
        """`plain`, for a manifest that is passed on: directories by their last name only."""
        chosen = self.plain()
        for declared in in_order(type(self)):
            if declared.is_path and declared.name in chosen:
                chosen[declared.name] = as_plain(chosen[declared.name], os.path.basename)
        del chosen["digest"]  # The manifest has a place for it.
        return chosen

    def _decided(self, name: str) -> object:
        return getattr(self, name)


def directory_of(base: str | PathLike[str] | None) -> str | None:
    """A base model as a directory: a hub id is looked up, or downloaded. Raises BadOption if there is none."""
    if base is None:
        return None
    from ..integrations.hub import resolved

    path = plain(os.fspath(base))
    refuse_urls([path], "a base model", "download it, and name the directory; a model of the hub is named owner/name")
    return resolved(path)


# Two commands have these: a field belongs to one class, so each makes its own.


def restart() -> bool:
    return option(False, "start from the beginning, do not continue an interrupted conversion", group=Group.OUTPUT)


def reflink(them: str, less: str = "") -> Literal["auto", "always", "never"]:
    return option(
        "auto",
        "how to use a file system that can share blocks between files, such as XFS or Btrfs: `auto` clones "
        f"{them} instead of copying them{less}, `always` refuses to convert if nothing can be cloned, `never` makes "
        "copies",
        group=Group.OUTPUT,
        choices=("auto", "always", "never"),
        decides="bytes",
    )


def drop_cache() -> bool:
    return option(
        False,
        "have the system's page cache give up what has been read and what has been written, as it goes: on a node "
        "where other programs need it",
        group=Group.OUTPUT,
    )


def fill(them: str) -> str | PathLike[str] | Sequence[str | PathLike[str]]:
    return option(
        (),
        f"with {{rescue}}: take lost values from this {them}",
        group=Group.INCOMPLETE,
        metavar="DIR",
        repeatable=True,
        decides="bytes",
        is_path=True,
    )


def refuse_fill_alone(fill: str | PathLike[str] | Sequence[str | PathLike[str]], *, rescue: bool) -> None:
    """Raises BadOption."""
    if not rescue and roots_of(fill):
        raise BadOption("--fill is used only with --rescue", expected="--rescue as well")


def digest() -> Literal["sha256", "xxh3"] | None:
    return option(
        None,
        "write a digest of every file and tensor into `zeroconsolidate.json`, for `verify` to compare",
        group=Group.CHECKING,
        choices=("sha256", "xxh3"),
        decides="bytes",
    )


def check(also: str = "") -> Literal["sample", "all", "none"]:
    return option(
        "sample",
        f"how many master weights to compare with their 16-bit copies before writing{also}: a sample, all, or none",
        group=Group.CHECKING,
        switches=(
            Switch(
                "--check",
                "all",
                "compare all master weights with their 16-bit copies before writing, not only a sample",
            ),
            Switch("--no-check", "none", "compare no values"),
        ),
        choices=("sample", "all", "none"),
    )


def replicas() -> Literal["equal", "first"]:
    return option(
        "equal",
        "if ranks hold different copies of a tensor: refuse to convert (`equal`), or write the first copy, with a "
        "warning (`first`)",
        group=Group.CHECKING,
        choices=("equal", "first"),
    )
