"""The options of `open_checkpoint`, and of what reads tensors through it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .common import Opening
from .declaration import Group, option

if TYPE_CHECKING:
    from os import PathLike


@dataclass(frozen=True, kw_only=True)
class ReadingOptions(Opening):
    """The options of `open_checkpoint`. None has a flag: the command does not read tensors for anyone."""

    names: Literal["stored", "hub", "in-memory"] = option(
        "stored",
        "names of the tensors: those of the checkpoint (`stored`), or those that `consolidate` writes: of models on "
        "the hub (`hub`), or those that transformers 5 has in memory (`in-memory`)",
        group=Group.NAMES,
        flag=None,
        choices=("stored", "hub", "in-memory"),
    )
    base: str | PathLike[str] | None = option(
        None,
        "with {names}: the original model, a directory or a hub id, as `consolidate` takes it",
        group=Group.NAMES,
        flag=None,
        is_path=True,
    )
    lora: Literal["adapter", "merge", "keep"] | None = option(
        None,
        "with {names}, after training with PEFT adapters: the adapters as PEFT saves them (`adapter`, which is what "
        "happens without this option), the model with the adapters merged (`merge`), or all tensors (`keep`)",
        group=Group.ADAPTERS,
        flag=None,
        choices=("adapter", "merge", "keep"),
    )
    rescue: bool = option(
        False,
        "open an incomplete checkpoint too: the tensors that are whole are in the mapping, and `losses` says what is "
        "lost of the others",
        group=Group.INCOMPLETE,
        flag=None,
    )
