"""A checkpoint and a module -> the module with the checkpoint's values, one tensor after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..archive.phrases import counted, listed
from ..errors import BadOption, WrongNames
from ..integrations.records import record
from ..run.inputs import Inputs
from .match import match, refuse, spellings
from .put import put, refuse_unheld
from .report import LoadReport
from .source import tensors_of
from .target import Slot, left_on_meta, slots_of, unwrapped
from .whole import element_type_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..mapping.checkpoint import Checkpoint
    from ..options import LoadingOptions, Roots
    from .match import Match
    from .source import Tensors


def loaded_into(model: torch.nn.Module, src: Roots | Checkpoint, options: LoadingOptions) -> LoadReport:
    """What `load_into` does. Nothing is written before all names and shapes have been compared."""
    model = unwrapped(model)
    slots = slots_of(model)
    tensors, found = _best(model, slots, src, options)
    refuse(found, strict=options.strict)
    _refuse_meta(model, found, options)
    kind = element_type_of(options.dtype, tensors)
    dtype: torch.dtype | None = None if kind is None else getattr(torch, kind.torch_name)
    device = None if options.device is None else _device(options.device)
    notes = [found.change] if found.change else []
    by_name = {names[0]: (slot, names) for slot, names in found.pairs}
    with Inputs(tensors.files) as inputs, torch.no_grad():
        for slot, names in found.pairs:
            _refuse_two(slot, names, tensors, inputs)
            refuse_unheld(slot, tensors.named[names[0]], inputs)
        if not options.assign:
            _refuse_one_memory(found, tensors, inputs)
        for name in tensors.order:
            if name in by_name:
                slot, _ = by_name[name]
                put(slot, tensors.named[name], inputs, dtype=dtype, device=device, assign=bool(options.assign))
    record("info", (tensors.names, *notes))
    for names, what in ((found.missing, "not in the checkpoint"), (found.unexpected, "not in the module")):
        record("warning", [f"{counted(len(names), 'name')} {what}: {listed(names, 4)}"] if names else [])
    return LoadReport(
        loaded=len(found.pairs), missing=found.missing, unexpected=found.unexpected, notes=(tensors.names, *notes)
    )


def _best(
    model: torch.nn.Module, slots: Sequence[Slot], src: Roots | Checkpoint, options: LoadingOptions
) -> tuple[Tensors, Match]:
    """The names that fit best, the first of those that fit equally well."""
    best: tuple[Tensors, Match] | None = None
    for tensors in tensors_of(src, options, names=options.names):
        for spelled in spellings(model, slots):
            found = match(slots, tensors.named, tensors.ties, spelled, exact=options.names != "auto")
            if best is None or found.wrong < best[1].wrong:
                best = tensors, found
            if not found.wrong and not found.rivals:
                return tensors, found
    if best is None:
        raise WrongNames("there are no tensors to load")
    return best


def _refuse_meta(model: torch.nn.Module, found: Match, options: LoadingOptions) -> None:
    """What stays on meta has no values, and never gets any. Raises WrongNames, BadOption."""
    slots = [slot for slot, _ in found.pairs]
    if options.assign is False and any(slot.tensor.is_meta for slot in slots):
        raise BadOption(
            "assign=False cannot be used with a module on the meta device, which has no memory to copy into",
            remedy="leave it out",
        )
    left = left_on_meta(model, slots)
    if left:
        raise WrongNames(
            f"{listed(left, 3)} would be left on the meta device, without values",
            missing=tuple(left),
            consequence="the checkpoint does not have them: buffers that are in no state dict are made with the module",
            remedy="make the module with its buffers (accelerate's init_empty_weights does), or give them values first",
        )


def _device(name: str | torch.device) -> torch.device:
    """The device of this name, on which tensors can be made. Raises BadOption."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise BadOption(f"the device {name} cannot be used: {reason}", expected="such as cpu or cuda:0") from None
    if device.type == "meta":
        raise BadOption("tensors on the meta device have no values to load", expected="a device such as cpu or cuda:0")
    return device


def _refuse_one_memory(found: Match, tensors: Tensors, inputs: Inputs) -> None:
    """Parameters that are two, but whose values are in the same memory, are like tied ones. Raises WrongNames."""
    held: dict[tuple[object, ...], tuple[Slot, str]] = {}
    for slot, (name, *_) in found.pairs:
        tensor = slot.tensor
        if hasattr(tensor, "placements") or tensor.is_meta or not tensor.numel():
            continue
        memory = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride())
        first, other = held.setdefault(memory, (slot, name))
        if first is not slot:
            _refuse_two(Slot(tensor, (*first.places, *slot.places), slot.is_parameter), (other, name), tensors, inputs)


def _refuse_two(slot: Slot, names: Sequence[str], tensors: Tensors, inputs: Inputs) -> None:
    """Several tensors for one parameter must have the same values. Raises WrongNames."""
    first, *others = [tensors.named[name] for name in names]
    for name, other in zip(names[1:], others, strict=True):
        if other.recipe is first.recipe or other.recipe == first.recipe:
            continue
        from ..run.compare import first_difference

        differs = other.recipe.dtype is not first.recipe.dtype or first_difference(
            inputs, first.recipe, other.recipe, start=0, stop=first.recipe.numel, progress=lambda _: None
        )
        if differs:
            raise WrongNames(
                f"the module ties {listed([place.name for place in slot.places])}, which are different tensors in the "
                "checkpoint",
                found=f"{names[0]} and {name}",
                consequence="one of them would be lost",
                remedy="untie them in the module",
            )
