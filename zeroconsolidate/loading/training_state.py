"""A checkpoint -> where its weights are, what its optimizer keeps of each, and what it goes on with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..archive.load import load_file
from ..archive.located import LocatedTensor
from ..archive.names import FileKind
from ..archive.phrases import listed
from ..catalog.resuming import resuming_of
from ..errors import MissingFiles, UnsupportedLayout
from ..opening.open import find, open_files
from ..plan.sources import sources
from ..plan.states import MASTERS, param_groups, states, steps

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..archive.raw import CheckpointFiles
    from ..catalog.facts import Catalog
    from ..catalog.resuming import Resuming
    from ..catalog.training import Scaler
    from ..options import Roots
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


def training_state(catalog: Catalog, *, optimizer: bool) -> TrainingState:
    """The training state of a whole checkpoint; without `optimizer`, the weights alone.

    Raises UnsupportedLayout if the optimizer's state is not laid out like the parameters, or not all of it is
    understood.
    """
    by_state = {}
    if optimizer:
        by_state = states(catalog)
        _refuse_lost(catalog, by_state)
    weights = sources(catalog)
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
    )


def _refuse_lost(catalog: Catalog, by_state: Mapping[str, object]) -> None:
    lost = [name for name in catalog.origin.optimizer_state if name not in by_state]
    lost = [*catalog.unplaced, *(name for name in lost if name not in catalog.unplaced)]
    unread = catalog.training.unread if catalog.training is not None else ()
    if lost:
        raise UnsupportedLayout(
            f"the optimizer's state {listed(list(map(repr, lost)))} is not laid out like the parameters, or is of a "
            f"layout that is not read ({catalog.origin.wrapper})",
            remedy="optimizer=False loads the weights alone",
            address=(catalog.origin.tag,),
        )
    if unread:
        raise UnsupportedLayout(
            f"{listed(list(unread), 4)}: the value is not plain, and would be lost",
            remedy="optimizer=False loads the weights alone",
            address=(catalog.origin.tag,),
        )


def open_training_state(src: Roots, tag: str | None, *, optimizer: bool) -> tuple[TrainingState, Resuming]:
    """Open a checkpoint, which must be whole. Raises what `open_files` and `training_state` raise."""
    files = find(src, tag)
    state = training_state(open_files(files, src), optimizer=optimizer)
    return state, _resuming(files)


def _resuming(files: CheckpointFiles) -> Resuming:
    """What the first model file says besides tensors: it is the same in all of them."""
    for kind in (FileKind.MODEL, FileKind.PARTITIONED_MODEL):
        for name in files.of(kind):
            return resuming_of(load_file(files.path(name), kind, name).content)
    raise MissingFiles("the model states are missing", files=("mp_rank_00_model_states.pt",))
