"""An incomplete checkpoint -> the commands that apply to it."""

from __future__ import annotations

import os
import re
import shlex
from typing import TYPE_CHECKING, Literal, TypeAlias

from ..archive.discover import natural
from ..archive.places import names_in
from ..errors import ZeroConsolidateError
from ..options.urls import absolute, normal
from ..plan.states import MASTERS
from .rescue import has_optimizer, rescue, rescue_states
from .resume import LAST_COMPLETE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..catalog.facts import Catalog
    from .losses import Loss
    from .rescue import Rescued

Verb: TypeAlias = Literal["convert", "universal"]
"""The command that is suggested."""

_MAX_SIBLINGS = 8
"""At most so many older checkpoints are read to find one that is complete."""


def of_a_tag(newest: str | None) -> tuple[str, ...]:
    """`newest`: the newest complete tag, next to the incomplete one."""
    return () if newest is None else (f"--tag {LAST_COMPLETE} takes {newest}, the newest complete tag",)


def of_a_sibling(root: str, is_complete: Callable[[str], bool], verb: Verb) -> tuple[str, ...]:
    """Trainer keeps every save in a `checkpoint-N` of its own: the newest other one that is complete."""
    parent, own = os.path.split(absolute(root))
    if not re.fullmatch(r"checkpoint-[0-9]+", own):
        return ()
    try:
        entries = natural([entry for entry in names_in(parent) if re.fullmatch(r"checkpoint-[0-9]+", entry)])
    except OSError:
        return ()
    given = normal(root)
    shown = os.path.dirname(given) if os.path.basename(given) == own else parent
    others = [os.path.join(shown, entry) for entry in reversed(entries) if entry != own][:_MAX_SIBLINGS]
    found = next((other for other in others if is_complete(other)), None)
    return () if found is None else (f"zeroconsolidate {verb} {shlex.quote(found)} OUTPUT",)


def of_a_rescue(catalog: Catalog, losses: Sequence[Loss]) -> tuple[str, ...]:
    """What `--rescue` would write, if any value of a parameter is left."""
    parameters = {loss.name for loss in losses if loss.role != "buffer"}
    some_left = any(loss.lost_numel < loss.numel for loss in losses if loss.name in parameters)
    with_zeros = ("--rescue=zeros writes all that is left, with zeros where values are lost",) if some_left else ()
    tensors = rescue(catalog, (), zeros=False)
    written = [tensor for tensor in tensors if tensor.source is not None]
    if not any(tensor.name in parameters for tensor in written):
        return with_zeros
    held = sum(origin.stop - origin.start for tensor in tensors for origin in tensor.origins)
    values = _shares(written, held)
    if len(written) == len(tensors):
        return (f"--rescue writes all tensors: {values}" if some_left else "--rescue writes all tensors, in 16 bits",)
    return (f"--rescue writes only tensors that are whole: {values}", *with_zeros)


def of_a_universal_rescue(catalog: Catalog) -> tuple[str, ...]:
    """What `universal --rescue` would write, if training can be resumed from it."""
    if not has_optimizer(catalog):
        return ()
    try:
        masters = rescue_states(catalog, ())[MASTERS]
    except ZeroConsolidateError:
        return ()
    filled = "--rescue --fill DIR takes lost values from an earlier checkpoint"
    if any(master.source is None for master in masters):
        return (filled,)
    held = sum(origin.stop - origin.start for master in masters for origin in master.origins)
    shares = _shares(masters, held)
    return (f"--rescue writes all master weights, {shares}, and zeros for lost moments", filled)


def _shares(written: Sequence[Rescued], held: int) -> str:
    """How many of `held` elements are in it exactly, and how many in 16 bits."""
    shares = {
        source: 100 * sum(o.stop - o.start for tensor in written for o in tensor.origins if o.source == source) / held
        for source in ("checkpoint", "module")
    }
    in_16_bits = f", {shares['module']:.1f} % in 16 bits" if shares["module"] else ""
    return f"{shares['checkpoint']:.1f} % of the values exactly{in_16_bits}"
