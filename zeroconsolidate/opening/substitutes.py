"""Models given with `--fill` and `--base` -> tensors in place of lost or unsaved ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..archive.manifest_file import read_manifest
from ..archive.weights import read_weights
from ..errors import BadOption, NotACheckpoint, ZeroConsolidateError
from ..naming.base import missing_frozen
from .rescue import Filler, rescue
from .rescue_report import RescueReport, rescue_report

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..catalog.facts import Catalog
    from ..plan.build import Source
    from .incomplete import Incomplete


@dataclass(frozen=True, slots=True, kw_only=True)
class Additions:
    """Sources that a checkpoint does not have itself."""

    sources: dict[str, Source]
    files: tuple[str, ...]
    """Every file they are in."""
    warnings: tuple[str, ...]


NO_ADDITIONS = Additions(sources={}, files=(), warnings=())


def rescued(
    incomplete: Incomplete, fill: Sequence[str], *, zeros: bool
) -> tuple[dict[str, Source], RescueReport, tuple[str, ...]]:
    """What can be written of an incomplete checkpoint, what was done for it, and the files used to fill with.

    Raises BadOption if that is nothing, or if a model to fill with has no weights.
    """
    fillers = [filler(directory) for directory in fill]
    found = rescue(incomplete.catalog, fillers, zeros=zeros)
    if all(tensor.source is None for tensor in found):
        raise BadOption(
            "nothing can be rescued: every tensor has lost values, and nothing else has them",
            remedy=("name a model to take lost values from: --fill DIR", "write zeros for lost values: --rescue=zeros"),
        )
    report = rescue_report(incomplete.catalog.origin, incomplete.reasons, found)
    files = {tensor.file: None for filler in fillers for tensor in filler.tensors.values()}
    return {tensor.name: tensor.source for tensor in found if tensor.source is not None}, report, tuple(files)


def filler(directory: str) -> Filler:
    """A model directory to fill with; its step is known if we wrote it. Raises BadOption if it has no weights."""
    try:
        weights = read_weights(directory)
    except NotACheckpoint as error:
        raise BadOption(f"the model in --fill cannot be used: {error}") from None
    return Filler(label=directory, step=_step(directory), tensors=weights.tensors)


def frozen_of_base(catalog: Catalog, stored: Mapping[str, Source], base: str | None) -> Additions:
    """The frozen parameters that a save without them (`exclude_frozen_parameters`) left to the base model."""
    if base is None or catalog.frozen:
        return NO_ADDITIONS
    try:
        weights = read_weights(base)
    except NotACheckpoint:
        return NO_ADDITIONS  # config and tokenizer are all it has
    except ZeroConsolidateError as error:
        return Additions(sources={}, files=(), warnings=(f"the weights in --base cannot be read: {error}",))
    found, reason = missing_frozen(catalog, stored, weights.tensors)
    if reason is not None:
        return Additions(sources={}, files=(), warnings=(f"the weights in --base were not used: {reason}",))
    files = dict.fromkeys(weights.tensors[name].file for name in found)
    return Additions(sources=found, files=tuple(files), warnings=())


def _step(directory: str) -> int | None:
    try:
        step = (read_manifest(directory) or {"source": {}})["source"].get("step")
    except ZeroConsolidateError:
        return None
    return step if type(step) is int else None
