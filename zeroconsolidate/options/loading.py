"""The options of `load_into` and `state_dict`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .common import Opening
from .declaration import Group, option

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class LoadingOptions(Opening):
    """The options of `load_into`."""

    strict: bool = option(
        True,
        "whether a name that only the module or only the checkpoint has is an error; either way both are in the report",
        group=Group.NAMES,
        flag=None,
    )
    dtype: str | torch.dtype | None = option(
        None,
        "dtype that floating-point parameters are cast to, such as `torch.bfloat16` or `bf16`, or `auto` for that of "
        "training; by default the module's own, which buffers always keep",
        group=Group.OUTPUT,
        flag=None,
    )
    assign: bool | None = option(
        None,
        "whether new tensors take the place of the module's, as in `load_state_dict`; by default only where those are "
        "on the meta device, and all others are overwritten",
        group=Group.OUTPUT,
        flag=None,
        choices=(True, False),
    )
    device: str | torch.device | None = option(
        None,
        "where the tensors are to be; by default where the module's are, and on the CPU where those are on meta",
        group=Group.OUTPUT,
        flag=None,
    )
    names: Literal["auto", "stored", "hub", "in-memory"] = option(
        "auto",
        "by which names tensors are found: those of the checkpoint, those that `consolidate` writes, with or without "
        "the prefix of a wrapper, whichever fit (`auto`); or exactly those of the checkpoint (`stored`), of models on "
        "the hub (`hub`), or of transformers 5 in memory (`in-memory`)",
        group=Group.NAMES,
        flag=None,
        choices=("auto", "stored", "hub", "in-memory"),
    )


@dataclass(frozen=True, kw_only=True)
class StateDictOptions(Opening):
    """The options of `state_dict`."""

    dtype: str | torch.dtype | None = option(
        None,
        "dtype that floating-point parameters are cast to, such as `torch.bfloat16` or `bf16`, or `auto` for that of "
        "training; by default each is as it is stored, and buffers always are",
        group=Group.OUTPUT,
        flag=None,
    )
    names: Literal["stored", "hub", "in-memory"] = option(
        "stored",
        "names of the tensors: those of the checkpoint (`stored`), or those that `consolidate` writes: of models on "
        "the hub (`hub`), or those that transformers 5 has in memory (`in-memory`)",
        group=Group.NAMES,
        flag=None,
        choices=("stored", "hub", "in-memory"),
    )
