"""A checkpoint -> where its weights are, what its optimizer keeps of each, and what it goes on with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..archive.located import LocatedTensor
from ..catalog.resuming import resuming_of
from ..mapping.client_state import first_model_file
from ..opening.open import open_catalog
from ..opening.opened import of_catalog
from ..plan.states import MASTERS, every_state, param_groups, steps
from ..saves.target import settled

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..catalog.resuming import Resuming
    from ..catalog.training import Scaler
    from ..opening.opened import Opened
    from ..options import Opening, Roots
    from ..plan.sources import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingState:
    """What training goes on with. Tensors are by the name that their parameter is stored under."""

    title: str
    """The tag, for errors."""
    names: Mapping[str, str]
    """Every name of a tensor -> its stored name: second names of tied weights, and what optimizer files call them."""
    weights: Mapping[str, Source]
    """Masters, frozen parameters and buffers."""
    states: Mapping[str, Mapping[str, Source]]
    """Stored name -> state -> source, for trained parameters."""
    steps: Mapping[str, float | None]
    """The optimizer's step, by stored name."""
    param_groups: tuple[Mapping[str, object], ...]
    group_of: Mapping[str, int]
    """Stored name -> index of its param group."""
    scaler: Scaler | None
    looks: Mapping[str, Mapping[str, int | str]]
    """What the files looked like before any was read, as far as it is known."""


def training_state(opened: Opened, *, optimizer: bool, remedy: str | None) -> TrainingState:
    """The training state of a whole checkpoint; without `optimizer`, the weights alone. `remedy`: for an error, how to
    do without what the optimizer keeps.

    Raises what `every_state` raises.
    """
    catalog, weights = opened.catalog, opened.stored
    by_state = every_state(catalog, remedy=remedy) if optimizer else {}
    names = {name: owner for name in catalog.order if (owner := catalog.ties.get(name, name)) in weights}
    names |= {called: names[name] for name, called in catalog.listed.items() if name in names}
    training = catalog.training
    return TrainingState(
        title=catalog.origin.tag,
        names=names,
        weights=weights,
        states={
            name: {state: held[name] for state, held in by_state.items() if state != MASTERS and name in held}
            for name in by_state.get(MASTERS, {})
        },
        steps={name: step.item if isinstance(step, LocatedTensor) else step for name, step in steps(catalog).items()},
        param_groups=training.param_groups if training is not None else (),
        group_of=param_groups(catalog),
        scaler=training.scaler if training is not None else None,
        looks=opened.looks,
    )


def open_training_state(
    src: Roots, which: Opening, *, optimizer: bool, remedy: str | None
) -> tuple[TrainingState, Resuming]:
    """Open a checkpoint, which must be whole. Raises what `open_catalog` and `training_state` raise."""
    src, which = settled(src, which)
    catalog = open_catalog(src, which.tag)
    state = training_state(of_catalog(catalog), optimizer=optimizer, remedy=remedy)
    model_file = first_model_file(catalog)
    return state, resuming_of({} if model_file is None else model_file.content)
