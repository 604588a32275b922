"""Raw files of all ranks -> the catalog."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..archive.names import FileKind, file_name
from ..archive.raw import MAX_REMEMBERED
from ..errors import MissingFiles, at
from . import fields
from .agree import are_missing, grid_of, missing_ranks, same
from .contents import Contents
from .experts import expert_files, stacks
from .groups import saving_ranks
from .model_file import ModelFile, read_model_file
from .optimizer_file import OptimizerFile, read_optimizer_file
from .parts import assemble
from .pipeline import read_layers
from .swapped import swapped_in
from .universal import own_files, read_universal
from .whole_optimizer import WholeOptimizer, read_whole_optimizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..archive.raw import CheckpointFiles, RawFile
    from .facts import Catalog

    Load = Callable[[CheckpointFiles, FileKind], Iterable[RawFile]]


def read(files: CheckpointFiles, load: Load) -> Catalog:
    """The facts of a checkpoint. `load(files, kind)` yields the files of one kind in the order of their ranks.

    Raises MissingFiles, Disagreement, DamagedFile or UnsupportedLayout; each names the file and rank.
    """
    universal = read_universal(files, load)
    files = own_files(files, universal)
    model_kind = model_kind_of(files)
    models = _read_models(files, model_kind, load)
    if not models:  # what cannot be read may have been left out
        raise MissingFiles("no model states can be read", files=tuple(name.name for name in files.of(model_kind)))
    first = models[0]
    grid = grid_of(files, first)
    partitioned = universal is None and is_partitioned(files, first)
    world_size = first.world_size or max(len(files.of(FileKind.OPTIMIZER)) // grid.size, 1)
    optimizers = [read_optimizer_file(raw) for raw in load(files, FileKind.OPTIMIZER)]
    sharers = saving_ranks(files, optimizers, world_size)
    if partitioned:
        missing = missing_ranks(files, FileKind.OPTIMIZER, sharers, grid)
        if model_kind is FileKind.PARTITIONED_MODEL:
            missing += missing_ranks(files, FileKind.PARTITIONED_MODEL, sharers, grid)
        if missing:
            raise are_missing(missing, sharers)
    agree(models, optimizers)
    optimizers = swapped_in(optimizers, first, files.swaps, sharers, is_split=grid.size > 1)
    experts = tuple(load(files, FileKind.EXPERT))
    return assemble(
        Contents(
            files=files,
            grid=grid,
            world_size=world_size,
            sharers=sharers,
            models={mp: tuple(m for m in models if m.mp_rank == mp) for mp in range(grid.size)},
            optimizers={mp: tuple(o for o in optimizers if o.mp_rank == mp) for mp in range(grid.size)},
            wholes={} if partitioned or universal else _wholes(files, models, load),
            universal=universal,
            layers=read_layers(load(files, FileKind.LAYER)),
            experts={mp: expert_files(raw for raw in experts if raw.name.mp_rank == mp) for mp in range(grid.size)},
            expert_paths=tuple(raw.path for raw in experts),
            stacks=stacks(first.autoep_layers),
            missing=(),
        )
    )


def model_kind_of(files: CheckpointFiles) -> FileKind:
    """Whether one file holds the model, or each rank has one. Raises MissingFiles if there is none."""
    for kind in (FileKind.PARTITIONED_MODEL, FileKind.MODEL):
        if files.of(kind):
            return kind
    raise MissingFiles(
        "the model states are missing",
        remedy=(
            "look for mp_rank_00_model_states.pt (stages 0 to 2) or zero_pp_rank_0_mp_rank_00_model_states.pt (stage 3)"
        ),
        files=("mp_rank_00_model_states.pt",),
    )


def is_partitioned(files: CheckpointFiles, first: ModelFile) -> bool:
    """Whether optimizer files belong to the checkpoint, even if none is there."""
    of_one_rank = first.optimizer is not None and "single_partition_of_fp32_groups" in first.optimizer
    return (
        bool(files.of(FileKind.OPTIMIZER))
        or model_kind_of(files) is FileKind.PARTITIONED_MODEL
        or first.param_shapes is not None
        or fields.stage_of(first.ds_config) in (1, 2, 3)
        or of_one_rank
    )


def _read_models(files: CheckpointFiles, kind: FileKind, load: Load) -> list[ModelFile]:
    """Read all model files, comparing as we go: 1,024 copies of the same 2,000 shapes are neither kept nor looked at
    again where `load` gives one object for all of them."""
    models: list[ModelFile] = []
    first: ModelFile | None = None
    seen: list[tuple[object, ModelFile]] = []
    for raw in load(files, kind):
        if first is None or raw.name.mp_rank != first.mp_rank:
            first, seen = None, []
        known = next((model for content, model in seen if content is raw.content), None)
        if known is None or first is None:
            model = read_model_file(raw)
            first = first or model
            same_shapes(first, model)
            known = shared_with(first, model)
            if len(seen) < MAX_REMEMBERED:
                seen.append((raw.content, known))
            models.append(model if model is first else known)
        else:
            models.append(replace(known, rank=raw.name.dp_rank, file=raw.path, container=raw.container))
    return models


def same_shapes(first: ModelFile, model: ModelFile) -> None:
    """Both must list the same parameters, in the same order. Raises Disagreement."""
    name = file_name(first.file)
    same([model], "'param_shapes'", ordered_shapes, reference=(name, ordered_shapes(first)))
    same([model], "'frozen_param_shapes'", lambda m: m.frozen_shapes, reference=(name, first.frozen_shapes))


def ordered_shapes(model: ModelFile) -> object:
    """`param_shapes` for a comparison in which order counts."""
    return None if model.param_shapes is None else [list(group.items()) for group in model.param_shapes]


def shared_with(first: ModelFile, model: ModelFile) -> ModelFile:
    """`model` with the parts that equal the first rank's replaced by those, and its placeholders dropped."""
    return replace(
        model,
        module={},
        buffer_names=first.buffer_names,
        param_shapes=first.param_shapes,
        frozen_shapes=first.frozen_shapes,
        shared_params={},
        skipped=(),
        universal={},
        autoep_layers=(),
        optimizer=None,
        ds_config={},
    )


def agree(models: list[ModelFile], optimizers: list[OptimizerFile]) -> None:
    """All files must be of one save. Raises Disagreement."""
    first = models[0]
    here = file_name(first.file)
    same(models, "the step ('global_steps')", lambda m: m.step)
    same(models, "the world size ('dp_world_size')", lambda m: m.world_size)
    same(models, "the model-parallel size ('mp_world_size')", lambda m: m.mp_world_size)
    same(models, "the DeepSpeed version", lambda m: m.ds_version)
    same(optimizers, "the DeepSpeed version", lambda o: o.ds_version, reference=(here, first.ds_version))
    if not optimizers:
        return
    same(optimizers, "the stage", lambda o: o.stage)
    same(optimizers, "the kind of flat groups", lambda o: o.cut)
    for mp_rank in {optimizer.mp_rank for optimizer in optimizers}:
        ranks = [optimizer for optimizer in optimizers if optimizer.mp_rank == mp_rank]
        same(ranks, "the number of flat groups", lambda o: len(o.partitions))
        same(ranks, "'partition_count'", lambda o: o.partition_counts)
        same(ranks, "the optimizer's step", lambda o: o.steps or None)
        same(ranks, "'param_alignment_paddings'", lambda o: o.alignment_paddings)


def _wholes(files: CheckpointFiles, models: list[ModelFile], load: Load) -> dict[int, tuple[WholeOptimizer, ...]]:
    """By model-parallel rank: the stage-0 optimizer, or those of its expert-parallel ranks in their order."""
    found: dict[int, list[WholeOptimizer]] = {}
    for raw in load(files, FileKind.EXPERT_OPTIMIZER):
        with at(raw.name.name):
            content = raw.content.get("optimizer")
            of_rank = found.setdefault(raw.name.mp_rank, [])
            if raw.name.dp_rank != len(of_rank):
                raise MissingFiles(
                    "an expert-parallel rank has no file",
                    expected=f"rank {len(of_rank)}",
                    found=raw.name.dp_rank,
                    files=(f"expp_rank_{len(of_rank)}_mp_rank_{raw.name.mp_rank:02d}_optim_states.pt",),
                )
            whole = content if isinstance(content, dict) else {}
            of_rank.append(read_whole_optimizer(whole, raw.path, models[0].ds_config))
    for model in models:
        if model.mp_rank not in found:
            with at(file_name(model.file)):
                found[model.mp_rank] = [read_whole_optimizer(model.optimizer or {}, model.file, model.ds_config)]
    return {mp_rank: tuple(wholes) for mp_rank, wholes in found.items()}
