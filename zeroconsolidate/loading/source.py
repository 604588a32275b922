"""A checkpoint, or a directory that was converted from one -> its tensors, under the names they may be asked for."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..archive.places import is_directory
from ..archive.weights import read_weights
from ..errors import NotACheckpoint, ZeroConsolidateError
from ..mapping.checkpoint import Checkpoint
from ..mapping.open import opened_mapping
from ..mapping.views import TensorView
from ..options import ReadingOptions, roots_of
from ..outputs.named import in_storage_order, planned_tensors
from ..plan.sources import Source
from ..run.files import Files
from ..saves.target import settled

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ..dtypes import DType
    from ..options import Opening, Roots
    from ..run.storage import Readable


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensors:
    """Tensors by name, and what reads them."""

    names: str
    """What kind of names these are, in words."""
    named: Mapping[str, Source]
    ties: Mapping[str, str]
    order: tuple[str, ...]
    """All names, in the order in which the tensors lie in the files."""
    training_dtype: DType | None
    """None for a model directory, which does not say it."""
    files: Readable

    def views(self) -> dict[str, TensorView]:
        """The tensors, to be read."""
        return {name: TensorView(name, source, self.files) for name, source in self.named.items()}


def tensors_of(src: Roots | Checkpoint, which: Opening, *, names: str) -> Iterator[Tensors]:
    """The tensors of `src`; with `names` "auto" once for each kind of names that there is, those of the checkpoint
    first. `which`: save, if there are several.

    Raises what `open_checkpoint` raises.
    """
    if isinstance(src, Checkpoint):
        yield of_checkpoint(src)
        return
    kind = "stored" if names == "auto" else names
    try:
        wanted = ReadingOptions(tag=which.tag, checkpoint=which.checkpoint, names=kind)  # type: ignore[arg-type]
        checkpoint = opened_mapping(*settled(src, wanted))
    except NotACheckpoint:
        model = _of_model(src) if which.tag is which.checkpoint is None else None
        if model is None:
            raise
        yield model
        return
    if names != "auto":
        yield of_checkpoint(checkpoint)
        return
    yield from under_all_names(checkpoint)


def under_all_names(checkpoint: Checkpoint) -> Iterator[Tensors]:
    """Those of a checkpoint that is open under its own names, once for each kind of names that there is."""
    yield of_checkpoint(checkpoint)
    others: tuple[Literal["in-memory", "hub"], ...] = ("in-memory", "hub")
    for other in others:
        with suppress(ZeroConsolidateError):  # then these names are not known
            planned = planned_tensors(checkpoint.contents.opened, ReadingOptions(names=other))
            yield _tensors(checkpoint, planned, {}, f"names as {other}")


def of_checkpoint(checkpoint: Checkpoint) -> Tensors:
    """Those of a checkpoint that is open."""
    kind = "names of the checkpoint" if checkpoint.names == "stored" else f"names as {checkpoint.names}"
    return _tensors(checkpoint, checkpoint.contents.tensors, checkpoint.ties, kind)


def _tensors(checkpoint: Checkpoint, named: Mapping[str, Source], ties: Mapping[str, str], kind: str) -> Tensors:
    catalog = checkpoint.contents.opened.catalog
    return Tensors(
        names=kind,
        named=named,
        ties=ties,
        order=tuple(in_storage_order(named, catalog.files)),
        training_dtype=catalog.origin.training_dtype,
        files=checkpoint.contents.files,
    )


def _of_model(src: Roots) -> Tensors | None:
    """A model directory, whatever tool wrote it; None if it is none."""
    roots = roots_of(src)
    if len(roots) != 1 or not is_directory(roots[0]):
        return None
    try:
        weights = read_weights(roots[0])
    except NotACheckpoint:
        return None
    named = {name: Source.of_model(name, tensor) for name, tensor in weights.tensors.items()}
    files = tuple(dict.fromkeys(tensor.file for tensor in weights.tensors.values()))
    return Tensors(
        names="names of the model directory",
        named=named,
        ties={},
        order=tuple(in_storage_order(named, files)),
        training_dtype=None,
        files=Files(),
    )
