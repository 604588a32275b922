"""The files that are left of a checkpoint -> its catalog, and why the others cannot be used.

A rank's file that cannot be used gets a stand-in: the same groups and stripes of the same sizes, located in the file
LOST. Where everything lies then follows by the same arithmetic as for a whole checkpoint, and a plan can tell exactly
which elements are lost.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from ..archive.located import LOST
from ..archive.names import FileKind, file_name
from ..catalog.agree import MISSING, Grid, missing_ranks
from ..catalog.contents import Contents
from ..catalog.experts import stacks
from ..catalog.groups import saving_ranks
from ..catalog.model_file import ModelFile, read_model_file
from ..catalog.noted import UNKNOWN_TIE, in_words
from ..catalog.optimizer_file import OptimizerFile, read_optimizer_file
from ..catalog.parts import assemble
from ..catalog.read import agree, is_partitioned, model_kind_of, ordered_shapes, read, same_shapes, shared_with
from ..catalog.swapped import swapped_in
from ..errors import DamagedFile, MissingFiles
from .stand_ins import model_stand_in, optimizer_stand_ins

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ..archive.raw import CheckpointFiles, RawFile
    from ..catalog.facts import Catalog

T = TypeVar("T", ModelFile, OptimizerFile)


@dataclass(frozen=True, slots=True, kw_only=True)
class Incomplete:
    """What is left of a checkpoint. `catalog.missing` has the names of the lost files; empty if nothing is lost."""

    catalog: Catalog
    reasons: Mapping[str, str]
    """Lost file -> why it cannot be used."""


def read_incomplete(
    files: CheckpointFiles,
    load: Callable[[CheckpointFiles, FileKind], Iterable[RawFile]],
    reasons: dict[str, str],
) -> Incomplete:
    """Like `read`, for what is there. `load` leaves out files that cannot be read, and says why in `reasons`.

    Raises MissingFiles if no file is left that says what the parameters are, and what `read` raises for files
    that are whole but contradict each other.
    """
    model_kind = model_kind_of(files)
    if any(files.of(kind) for kind in _WHOLE_ONLY) or any(name.mp_rank for name in files.of(model_kind)):
        try:
            return Incomplete(catalog=read(files, load), reasons={})
        except MissingFiles as error:
            error.consequence = error.consequence or _told(reasons)
            raise
    models = _models(files, model_kind, load, reasons)
    optimizers = [
        optimizer
        for raw in load(files, FileKind.OPTIMIZER)
        if (optimizer := _parsed(read_optimizer_file, raw, reasons))
    ]
    models = _of_one_save(models, reasons, beside=optimizers)
    optimizers = _of_one_save(optimizers, reasons, beside=models)
    if not models:
        raise MissingFiles(
            "no model states can be read, and nothing else says which parameters there are",
            consequence=_told(reasons),
            files=tuple(reasons),
        )
    first = models[0]
    world_size = first.world_size or max((o.rank for o in optimizers), default=0) + 1
    if not is_partitioned(files, first) or any(optimizer.intervals is not None for optimizer in optimizers):
        return Incomplete(catalog=read(files, load), reasons={})
    if saving_ranks(files, optimizers, world_size) < world_size:
        return Incomplete(catalog=read(files, load), reasons={})
    for kind in dict.fromkeys((FileKind.OPTIMIZER, model_kind)):
        if kind is not FileKind.MODEL:
            reasons.update(dict.fromkeys(missing_ranks(files, kind, world_size, _GRID), MISSING))
    for model in models[1:]:
        same_shapes(first, model)
    if not reasons:
        agree(models, optimizers)
        optimizers = swapped_in(optimizers, first, files.swaps, world_size)
        return Incomplete(catalog=_assemble(files, models, optimizers, world_size, []), reasons={})
    if optimizers:
        agree(models, optimizers)
    striped = model_kind is FileKind.PARTITIONED_MODEL
    unknown: list[str] = []
    if striped:
        first = models[0] = _without_unknown_ties(first, unknown)
        models = [first, *(shared_with(first, model) for model in models[1:])]
        models = _by_rank(models, [model_stand_in(first, rank, world_size) for rank in range(world_size)])
        # Buffers and names are read from the first: where that is lost, from whoever has them.
        models[0] = replace(models[0], module=first.module, skipped=first.skipped, ds_config=first.ds_config)
    optimizers = _by_rank(optimizers, optimizer_stand_ins(first, optimizers, world_size, striped=striped))
    catalog = _assemble(files, models, optimizers, world_size, sorted(reasons))
    noted = in_words({UNKNOWN_TIE: tuple(unknown)})
    catalog = replace(
        catalog,
        files=tuple(path for path in catalog.files if path != LOST),
        notes=(*catalog.notes, *noted),
        noted={**catalog.noted, **noted},
    )
    return Incomplete(catalog=catalog, reasons=dict(sorted(reasons.items())))


_GRID = Grid(pp=1, tp=1)
_WHOLE_ONLY = (FileKind.LAYER, FileKind.EXPERT, FileKind.EXPERT_OPTIMIZER, FileKind.UNIVERSAL)
"""Where there are such files, or several model-parallel ranks, a checkpoint is read whole or not at all."""


def _told(reasons: Mapping[str, str]) -> str:
    """Why files cannot be used: the first of them."""
    return "; ".join(f"{name}: {reason}" for name, reason in list(reasons.items())[:4])


def _assemble(
    files: CheckpointFiles,
    models: list[ModelFile],
    optimizers: list[OptimizerFile],
    world_size: int,
    missing: list[str],
) -> Catalog:
    return assemble(
        Contents(
            files=files,
            grid=_GRID,
            world_size=world_size,
            sharers=world_size,
            models={0: tuple(models)},
            optimizers={0: tuple(optimizers)},
            wholes={},
            universal=None,
            layers={},
            experts={0: {}},
            expert_paths=(),
            stacks=stacks(models[0].autoep_layers),
            missing=tuple(missing),
        )
    )


def _models(
    files: CheckpointFiles,
    kind: FileKind,
    load: Callable[[CheckpointFiles, FileKind], Iterable[RawFile]],
    reasons: dict[str, str],
) -> list[ModelFile]:
    """The model files that can be read. Of each step one is kept whole; the others share what equals it."""
    models: list[ModelFile] = []
    firsts: dict[int | None, ModelFile] = {}
    for raw in load(files, kind):
        model = _parsed(read_model_file, raw, reasons)
        if model is None:
            continue
        first = firsts.setdefault(model.step, model)
        alike = (
            model is not first
            and ordered_shapes(model) == ordered_shapes(first)
            and model.frozen_shapes == first.frozen_shapes
        )
        models.append(shared_with(first, model) if alike else model)
    return models


def _parsed(parse: Callable[[RawFile], T], raw: RawFile, reasons: dict[str, str]) -> T | None:
    try:
        return parse(raw)
    except DamagedFile as error:
        reasons[raw.name.name] = error.sentence
        return None


def _of_one_save(facts: list[T], reasons: dict[str, str], *, beside: Sequence[ModelFile | OptimizerFile]) -> list[T]:
    """The files of the step most of them are of; of two that are equally common, of the one that more files of the
    other kind are of, and else of the newest. `beside`: those files."""
    steps, others = Counter(map(_step, facts)), Counter(map(_step, beside))
    if len(steps) < 2:
        return facts
    chosen = max(steps, key=lambda value: (steps[value], others[value], -1 if value is None else value))
    for fact in facts:
        if _step(fact) != chosen:
            reasons[file_name(fact.file)] = f"from another save: step {_plain(_step(fact))}, not {_plain(chosen)}"
    return [fact for fact in facts if _step(fact) == chosen]


def _step(fact: ModelFile | OptimizerFile) -> float | None:
    """The step that a file is of: the engine's, or the last that its optimizer has counted."""
    return fact.step if isinstance(fact, ModelFile) else max(fact.steps, default=None)


def _plain(step: float | None) -> str:
    return "unknown" if step is None else f"{step:g}"


def _by_rank(facts: list[T], stand_ins: list[T]) -> list[T]:
    there = {fact.rank: fact for fact in facts}
    return [there.get(stand_in.rank, stand_in) for stand_in in stand_ins]


def _without_unknown_ties(first: ModelFile, unknown: list[str]) -> ModelFile:
    """Only rank 0 of stage 3 records which names are tied; without its file, an alias is a name with no values."""
    if first.rank == 0:
        return first
    listed = {*first.shapes, *(first.frozen_shapes or ())}
    listed |= set(first.buffer_names or ())
    unknown += [name for name, tensor in first.module.items() if name not in listed and not tensor.numel]
    return replace(first, module={name: t for name, t in first.module.items() if name not in set(unknown)})
