"""A module and the training state of a checkpoint or an output -> which parameter is which, whatever its name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .match import match, refuse, spellings
from .source import under_all_names
from .target import slots_of, unwrapped

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import torch

    from ..mapping.checkpoint import Checkpoint
    from ..plan.sources import Source
    from .match import Match
    from .target import Slot
    from .training_state import TrainingState


@dataclass(frozen=True, slots=True)
class Trained:
    """The parameters of a module, and those of them that were trained."""

    parameters: Mapping[str, torch.Tensor]
    """By their first name in the module, in its order."""
    stored: Mapping[str, str]
    """Name -> stored name, of those that the training state knows."""

    def name_of(self) -> dict[int, str]:
        """Their names by the `id` of the parameter."""
        return {id(tensor): name for name, tensor in self.parameters.items()}


def of_checkpoint(model: torch.nn.Module, checkpoint: Checkpoint, state: TrainingState) -> Trained:
    """By whichever names fit best; who has others than the checkpoint may wait for transformers. What another layout
    makes of several tensors is not known. Raises WrongNames where names or shapes leave a choice."""
    slots = slots_of(unwrapped(model))
    stored = {id(source.recipe): name for name, source in state.weights.items()}
    naming = ((tensors.named, tensors.ties) for tensors in under_all_names(checkpoint))
    named, found = _best(model, slots, naming)
    return _trained(slots, found, {name: stored.get(id(source.recipe), "") for name, source in named.items()}, state)


def of_output(model: torch.nn.Module, state: TrainingState) -> Trained:
    """By the names of the output, with or without the prefix of a wrapper. Raises what `of_checkpoint` raises."""
    slots = slots_of(unwrapped(model))
    named, found = _best(model, slots, [(state.weights, {})])
    return _trained(slots, found, {name: name for name in named}, state)


def _best(
    model: torch.nn.Module, slots: Sequence[Slot], naming: Iterable[tuple[Mapping[str, Source], Mapping[str, str]]]
) -> tuple[Mapping[str, Source], Match]:
    """The first of the names that leave the fewest parameters without counterpart."""
    best: tuple[Mapping[str, Source], Match] | None = None
    for named, ties in naming:
        for spelled in spellings(model, slots):
            found = match(slots, named, ties, spelled, exact=False)
            if best is None or len(found.pairs) > len(best[1].pairs):
                best = named, found
        if best is not None and not best[1].wrong:
            break
    if best is None:
        return {}, match(slots, {}, {}, {}, exact=True)
    refuse(best[1], strict=False)
    return best


def _trained(slots: Sequence[Slot], found: Match, stored: Mapping[str, str], state: TrainingState) -> Trained:
    pairs = {slot.name: stored[names[0]] for slot, names in found.pairs if stored[names[0]] in state.states}
    return Trained({slot.name: slot.tensor for slot in slots if slot.is_parameter}, pairs)
