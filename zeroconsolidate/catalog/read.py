"""Raw files -> Catalog: reads each rank's story, compares them, keeps one."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from ..archive.names import FileKind
from ..dtypes import DType
from ..errors import DamagedFile, Disagreement, MissingFiles, UnsupportedLayout, at
from .agree import are_missing, missing_ranks, refuse_unread_kinds, same
from .facts import Catalog, Cut, FlatGroup, Frozen, FrozenStripes, Member, Origin
from .model_file import ModelFile, read_model_file
from .names import ModuleNames, sort_names
from .optimizer_file import OptimizerFile, read_optimizer_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ..archive.raw import CheckpointFiles, RawFile
    from .facts import Shape


def read(
    files: CheckpointFiles,
    load: Callable[[CheckpointFiles, FileKind], Iterable[RawFile]],
    *,
    incomplete: bool = False,
) -> Catalog:
    """The facts of a checkpoint. `load(files, kind)` yields the files of one kind in the order of their ranks.

    With `incomplete`, files of some ranks may be missing: they are listed in `Catalog.missing`, not an error.

    Raises MissingFiles, Disagreement, DamagedFile or UnsupportedLayout; each names the file and rank.
    """
    refuse_unread_kinds(files)
    model_kind = FileKind.PARTITIONED_MODEL if files.of(FileKind.PARTITIONED_MODEL) else FileKind.MODEL
    if not files.of(model_kind):
        raise MissingFiles(
            "the model states are missing; look for mp_rank_00_model_states.pt (stages 1 and 2) "
            "or zero_pp_rank_0_mp_rank_00_model_states.pt (stage 3)",
            files=("mp_rank_00_model_states.pt",),
        )
    models = _read_models(files, model_kind, load)
    world_size = models[0].world_size or len(files.of(FileKind.OPTIMIZER)) or 1
    missing = missing_ranks(files, FileKind.OPTIMIZER, world_size)
    if model_kind is FileKind.PARTITIONED_MODEL:
        missing += missing_ranks(files, FileKind.PARTITIONED_MODEL, world_size)
    if missing and (not incomplete or not files.of(FileKind.OPTIMIZER)):
        raise are_missing(missing, world_size)
    optimizers = [read_optimizer_file(raw) for raw in load(files, FileKind.OPTIMIZER)]
    _agree(models, optimizers, world_size)
    return _assemble(files, models, optimizers, world_size, missing)


def _read_models(
    files: CheckpointFiles, kind: FileKind, load: Callable[[CheckpointFiles, FileKind], Iterable[RawFile]]
) -> list[ModelFile]:
    """Read all model files, comparing as we go: 1,024 copies of the same 2,000 shapes are not kept."""
    models: list[ModelFile] = []
    first: ModelFile | None = None
    for raw in load(files, kind):
        model = read_model_file(raw)
        first = first or model
        same([model], "'param_shapes'", lambda m: [list(g.items()) for g in m.param_shapes], reference=_told(first))
        same([model], "'frozen_param_shapes'", lambda m: m.frozen_shapes, reference=(first.file, first.frozen_shapes))
        models.append(model if model is first else _shared_with(first, model))
    return models


def _told(first: ModelFile) -> tuple[str, object]:
    return first.file.rpartition("/")[2], [list(group.items()) for group in first.param_shapes]


def _shared_with(first: ModelFile, model: ModelFile) -> ModelFile:
    """`model` with the parts that equal the first rank's replaced by those, and its placeholders dropped."""
    return ModelFile(
        rank=model.rank,
        file=model.file,
        module={},
        buffer_names=first.buffer_names,
        param_shapes=first.param_shapes,
        frozen_shapes=first.frozen_shapes,
        frozen_fragments=model.frozen_fragments,
        shared_params={},
        skipped=(),
        step=model.step,
        world_size=model.world_size,
        ds_version=model.ds_version,
        ds_config={},
    )


def _agree(models: list[ModelFile], optimizers: list[OptimizerFile], world_size: int) -> None:
    first = models[0]
    here = first.file.rpartition("/")[2]
    same(models, "the step ('global_steps')", lambda m: m.step)
    same(models, "the world size ('dp_world_size')", lambda m: m.world_size)
    same(models, "the DeepSpeed version", lambda m: m.ds_version)
    same(optimizers, "the DeepSpeed version", lambda o: o.ds_version, reference=(here, first.ds_version))
    same(optimizers, "the stage", lambda o: o.stage)
    same(optimizers, "the kind of flat groups", lambda o: o.cut)
    same(optimizers, "the number of flat groups", lambda o: len(o.partitions))
    same(optimizers, "the optimizer's step", lambda o: o.steps or None)
    same(optimizers, "'param_alignment_paddings'", lambda o: o.alignment_paddings)
    for optimizer in optimizers:
        for index, count in enumerate(optimizer.partition_counts or ()):
            if count != world_size:
                with at(optimizer.file.rpartition("/")[2]), at(f"group {index}"):
                    raise UnsupportedLayout(
                        f"the flat group is cut over {count} ranks of {world_size}: "
                        "expert parallelism or a shard group smaller than the world, which is not read yet"
                    )


def _assemble(
    files: CheckpointFiles,
    models: list[ModelFile],
    optimizers: list[OptimizerFile],
    world_size: int,
    missing: list[str],
) -> Catalog:
    first = models[0]
    groups = _groups(first, optimizers)
    striped = optimizers[0].cut is Cut.STRIPED
    trainable = {member.name for group in groups for member in group.members}
    named: ModuleNames = sort_names(first, trainable, whole=not striped)
    frozen: dict[str, Frozen] = dict(named.frozen)
    if striped:
        frozen |= _striped_frozen(models, world_size)
    return Catalog(
        origin=_origin(files, first, optimizers, world_size, trainable),
        files=tuple(dict.fromkeys([m.file for m in models] + [o.file for o in optimizers])),
        groups=groups,
        frozen=frozen,
        buffers=named.buffers,
        ties=named.ties,
        unsaved_ties=named.unsaved_ties,
        order=named.order,
        module={} if striped else named.witness,
        missing=tuple(missing),
        notes=named.notes,
    )


def _groups(first: ModelFile, optimizers: list[OptimizerFile]) -> tuple[FlatGroup, ...]:
    count = len(optimizers[0].partitions)
    if len(first.param_shapes) != count:
        with at(optimizers[0].file.rpartition("/")[2]):
            raise Disagreement(
                f"the files do not describe the same model; expected {len(first.param_shapes)} flat groups "
                f"as in 'param_shapes' of {first.file.rpartition('/')[2]}, got {count}"
            )
    groups = []
    seen: set[str] = set()
    for index, shapes in enumerate(first.param_shapes):
        with at(first.file.rpartition("/")[2]), at(f"group {index}"):
            twice = seen.intersection(shapes)
            if twice:
                raise DamagedFile(f"the parameter {min(twice)!r} is in two groups")
            seen.update(shapes)
            members = _members(shapes, optimizers[0].alignment_paddings, index)
        partitions = tuple(optimizer.partitions[index] for optimizer in optimizers)
        groups.append(FlatGroup(index=index, cut=optimizers[0].cut, members=members, partitions=partitions))
    return tuple(groups)


def _members(
    shapes: Mapping[str, Shape], paddings: tuple[tuple[int, ...], ...] | None, index: int
) -> tuple[Member, ...]:
    padding = paddings[index] if paddings is not None and index < len(paddings) else (0,) * len(shapes)
    if len(padding) != len(shapes):
        raise Disagreement(
            f"'param_alignment_paddings' does not fit 'param_shapes'; "
            f"expected {len(shapes)} entries, got {len(padding)}"
        )
    return tuple(Member(name, shape, pad) for (name, shape), pad in zip(shapes.items(), padding, strict=True))


def _striped_frozen(models: list[ModelFile], world_size: int) -> dict[str, FrozenStripes]:
    """Frozen parameters of stage 3 (mirrors `DeepSpeedEngine._get_zero_frozen_param_attributes`)."""
    shapes = models[0].frozen_shapes or {}
    files = tuple(model.file for model in models)
    starts: dict[str, array[int]] = {name: array("q") for name in shapes}
    looks: dict[str, tuple[DType, bool]] = {}
    for model in models:
        with at(model.file.rpartition("/")[2]):
            for name, shape in shapes.items():
                fragment = model.frozen_fragments.get(name)
                if fragment is None:
                    with at(name):
                        raise DamagedFile(f"the frozen parameter's stripe is missing in rank {model.rank}")
                numel = 1
                for n in shape:
                    numel *= n
                expected = -(-numel // world_size)
                look = (fragment.dtype, fragment.storage.big_endian)
                first_look = looks.setdefault(name, look)
                if fragment.numel != expected or not fragment.is_contiguous or look != first_look:
                    with at(name):
                        raise Disagreement(
                            f"the frozen parameter's stripe in rank {model.rank} does not fit; expected {expected} "
                            f"elements of {first_look[0].code} for the shape {shape}, got "
                            f"{fragment.numel} of {fragment.dtype.code}"
                        )
                starts[name].append(fragment.start)
    return {
        name: FrozenStripes(
            shape=shape, dtype=looks[name][0], big_endian=looks[name][1], files=files, starts=starts[name]
        )
        for name, shape in shapes.items()
    }


def _origin(
    files: CheckpointFiles,
    first: ModelFile,
    optimizers: list[OptimizerFile],
    world_size: int,
    trainable: set[str],
) -> Origin:
    stage = optimizers[0].stage
    config = first.ds_config.get("optimizer")
    kind = config.get("type") if isinstance(config, dict) else None
    return Origin(
        root=files.root,
        tag=files.tag,
        tags=files.tags,
        latest=files.latest,
        stage=stage if stage is not None else (3 if optimizers[0].cut is Cut.STRIPED else 1),
        world_size=world_size,
        step=first.step,
        ds_version=first.ds_version or optimizers[0].ds_version,
        training_dtype=_training_dtype(first, trainable),
        optimizer=kind if isinstance(kind, str) else None,
        optimizer_state=optimizers[0].state_names,
        param_groups=optimizers[0].param_groups,
    )


def _training_dtype(first: ModelFile, trainable: set[str]) -> DType:
    """The dtype of most trainable elements in the module; stage 3 keeps it in its empty placeholders."""
    votes: dict[DType, int] = {}
    for shapes in first.param_shapes:
        for name, shape in shapes.items():
            tensor = first.module.get(name)
            if tensor is not None and name in trainable and tensor.dtype.is_floating:
                numel = 1
                for n in shape:
                    numel *= n
                votes[tensor.dtype] = votes.get(tensor.dtype, 0) + numel
    return max(votes, key=lambda dtype: votes[dtype]) if votes else DType.F32
