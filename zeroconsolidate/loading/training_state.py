"""A checkpoint -> where its weights are, what its optimizer keeps of each, and what it goes on with."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..archive.load import load_file
from ..archive.located import LocatedTensor
from ..archive.names import FileKind
from ..catalog.resuming import resuming_of
from ..errors import MissingFiles, ZeroConsolidateError
from ..opening.open import find, open_files
from ..opening.opened import open_to_convert
from ..options import Options
from ..outputs.planned import plan_weights
from ..plan.sources import sources
from ..plan.states import MASTERS, every_state, param_groups, steps

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

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


def training_state(catalog: Catalog, *, optimizer: bool, remedy: str | None) -> TrainingState:
    """The training state of a whole checkpoint; without `optimizer`, the weights alone. `remedy`: for an error, how to
    do without what the optimizer keeps.

    Raises what `every_state` raises.
    """
    by_state = every_state(catalog, remedy=remedy) if optimizer else {}
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


def open_training_state(
    src: Roots, tag: str | None, *, optimizer: bool, remedy: str | None
) -> tuple[TrainingState, Resuming]:
    """Open a checkpoint, which must be whole. Raises what `open_files` and `training_state` raise."""
    files = find(src, tag)
    state = training_state(open_files(files, src), optimizer=optimizer, remedy=remedy)
    return state, _resuming(files)


def known_names(src: Roots, tag: str | None, state: TrainingState) -> Iterator[Mapping[str, str]]:
    """Names that a model may have -> stored names: those of the checkpoint, those that transformers has in memory, and
    those of models on the hub. Tensors in another layout than the checkpoint's are not among them. Who wants the next
    mapping may wait for transformers."""
    yield state.names
    for names in ("in-memory", "hub"):
        with suppress(ZeroConsolidateError):  # a naming that cannot be decided is none
            options = Options(tag=tag, names=names, lora="keep", ties="copy", allow_missing=True)
            opened = open_to_convert(src, options)
            stored = {id(source.recipe): name for name, source in opened.stored.items()}
            named = plan_weights(opened, options).named
            written = {**named.selection.named, **named.heads}
            yield {name: stored[id(source.recipe)] for name, source in written.items() if id(source.recipe) in stored}


def _resuming(files: CheckpointFiles) -> Resuming:
    """What the first model file says besides tensors: it is the same in all of them."""
    for kind in (FileKind.MODEL, FileKind.PARTITIONED_MODEL):
        for name in files.of(kind):
            return resuming_of(load_file(files.path(name), kind, name).content)
    raise MissingFiles("the model states are missing", files=("mp_rank_00_model_states.pt",))
