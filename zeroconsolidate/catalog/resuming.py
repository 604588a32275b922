"""A model file -> what an engine and its program go on with besides tensors: counters, scheduler, client state.

Mirrors `_load_checkpoint` in `deepspeed/runtime/engine.py`. What the program saved (`client_state`) lies among
DeepSpeed's own keys, and may hold anything: plain values, containers of them and tensors are passed on, an object of
some class is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..archive.printable import described
from . import fields
from .keys import MODEL_KEYS
from .nested import NotPlain, rebuilt

if TYPE_CHECKING:
    from ..archive.located import LocatedTensor

_KEPT_ELSEWHERE = ("data_sampler", "random_ltd")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resuming:
    """What an engine counts, and what its program keeps."""

    global_steps: int | None
    skipped_steps: int
    global_samples: int | None
    lr_scheduler: Mapping[str, object] | None
    """The scheduler's own state dict; None where there was no scheduler, or its state is among `unread`."""
    client_state: Mapping[str, object]
    """What the program gave `save_checkpoint` to keep, a LocatedTensor in place of each tensor."""
    unread: tuple[str, ...]
    """Keys of the file whose values are not passed on."""


def resuming_of(content: Mapping[str, Any]) -> Resuming:
    """The facts of a model file."""
    unread = [key for key in _KEPT_ELSEWHERE if content.get(key)]
    client_state: dict[str, object] = {}
    for key, value in content.items():
        if key not in MODEL_KEYS:
            try:
                client_state[key] = rebuilt(value, _as_it_is)
            except NotPlain:
                unread.append(described(key))
    scheduler = content.get("lr_scheduler")
    try:
        scheduler = rebuilt(scheduler, _as_it_is)
    except NotPlain:
        scheduler = None
        unread.append("lr_scheduler")
    return Resuming(
        global_steps=fields.optional(content, "global_steps", int),
        skipped_steps=fields.enum_int(content.get("skipped_steps")) or 0,
        global_samples=fields.optional(content, "global_samples", int),
        lr_scheduler=scheduler if isinstance(scheduler, Mapping) else None,
        client_state=client_state,
        unread=tuple(unread),
    )


def _as_it_is(tensor: LocatedTensor, _: str) -> LocatedTensor:
    return tensor
