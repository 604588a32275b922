"""Models given with `--fill` -> tensors in place of lost ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..archive.manifest_file import read_manifest
from ..archive.phrases import counted, listed
from ..archive.places import looks_in
from ..archive.weights import read_weights
from ..errors import (
    BadOption,
    MissingFiles,
    NotACheckpoint,
    StoreFailed,
    UnsafePath,
    UnsafePickle,
    ZeroConsolidateError,
)
from ..plan.build import Source, sources
from ..plan.states import MASTERS, states
from .open import open_catalog
from .rescue import Filler, has_optimizer, rescue, rescue_states
from .rescue_report import RescueReport, rescue_report

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .incomplete import Incomplete


def rescued(
    incomplete: Incomplete, fill: Sequence[str], *, zeros: bool
) -> tuple[dict[str, Source], RescueReport, tuple[Filler, ...]]:
    """What can be written of an incomplete checkpoint, a report of it, and what it is filled with.

    Raises BadOption if nothing can be written, or if what is to be filled with cannot be used.
    """
    fillers = tuple(filler(directory) for directory in fill)
    found = rescue(incomplete.catalog, fillers, zeros=zeros)
    if all(tensor.source is None for tensor in found):
        raise BadOption(
            "nothing can be rescued: every tensor has lost values, and nothing else has them",
            remedy=("name a model to take lost values from: --fill DIR", "write zeros for lost values: --rescue=zeros"),
        )
    report = rescue_report(incomplete.catalog.origin, incomplete.reasons, found)
    return {tensor.name: tensor.source for tensor in found if tensor.source is not None}, report, fillers


def rescued_states(
    incomplete: Incomplete, fill: Sequence[str]
) -> tuple[dict[str, dict[str, Source]], RescueReport, tuple[Filler, ...]]:
    """The masters and, by state, what the optimizer keeps of them, all of it; a report, and what they are filled with.

    Raises BadOption if nothing stands in for lost masters, MissingFiles if no optimizer file is left, and what
    :func:`.states.states` raises.
    """
    catalog = incomplete.catalog
    if not has_optimizer(catalog):
        raise MissingFiles(
            "no optimizer file is left, so nothing says how to resume: step, param groups, loss scaler",
            consequence="; ".join(f"{name}: {reason}" for name, reason in list(incomplete.reasons.items())[:4]),
            files=tuple(incomplete.reasons),
        )
    fillers = tuple(filler(directory) for directory in fill)
    found = rescue_states(catalog, fillers)
    lost = [tensor.name for tensor in found[MASTERS] if tensor.source is None]
    if lost:
        raise BadOption(
            f"{counted(len(lost), 'parameter')} cannot be rescued: values are lost, and nothing else has them",
            consequence=f"{listed(lost, 4)}; an engine needs all of them",
            remedy="name an earlier checkpoint, or the model that training began with, to take them from: --fill DIR",
        )
    of_states = {state: tensors for state, tensors in found.items() if state != MASTERS}
    report = rescue_report(catalog.origin, incomplete.reasons, found[MASTERS], of_states)
    sources = {
        state: {tensor.name: tensor.source for tensor in tensors if tensor.source is not None}
        for state, tensors in found.items()
    }
    return sources, report, fillers


def filler(directory: str) -> Filler:
    """What to fill with: a checkpoint, or a model directory, whose step is known if we wrote it.

    Raises BadOption if it is neither, or cannot be used.
    """
    try:
        catalog = open_catalog(directory, None)
        return Filler(
            label=directory,
            step=catalog.origin.step,
            tensors=sources(catalog),
            states={} if catalog.unplaced else states(catalog),
            files=catalog.files,
            looks=catalog.looks,
        )
    except NotACheckpoint:
        return _model_filler(directory)
    except (UnsafePickle, UnsafePath, StoreFailed):
        raise
    except ZeroConsolidateError as error:
        raise BadOption(f"the checkpoint in --fill cannot be used: {error.finding}", address=(directory,)) from None


def _model_filler(directory: str) -> Filler:
    seen = looks_in(directory)
    try:
        weights = read_weights(directory)
    except NotACheckpoint as error:
        raise BadOption(f"the model in --fill cannot be used: {error}") from None
    return Filler(
        label=directory,
        step=_step(directory),
        tensors={name: Source.of_model(name, tensor) for name, tensor in weights.tensors.items()},
        states={},
        files=tuple(dict.fromkeys(tensor.file for tensor in weights.tensors.values())),
        looks=seen,
    )


def _step(directory: str) -> int | None:
    try:
        step = (read_manifest(directory) or {"source": {}})["source"].get("step")
    except StoreFailed:
        raise
    except ZeroConsolidateError:
        return None
    return step if type(step) is int else None
