"""The files of a checkpoint -> its origin: step, version, optimizer, degrees of parallelism."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..dtypes import DType
from . import fields
from .facts import Cut, Degrees, Origin

if TYPE_CHECKING:
    from .contents import Contents
    from .facts import Part


def origin_of(contents: Contents, parts: tuple[Part, ...]) -> Origin:
    """The origin that the files of a checkpoint state together."""
    first, files = contents.first, contents.files
    optimizer = next(iter(contents.all_optimizers), None)
    whole = next(iter(contents.all_wholes), None)
    config = first.ds_config.get("optimizer")
    kind = config.get("type") if isinstance(config, dict) else None
    settings = optimizer.param_groups if optimizer else whole.param_groups if whole else ()
    if contents.universal:
        settings = contents.universal.param_groups
    states = optimizer.state_names if optimizer else whole.state_names if whole else ()
    return Origin(
        root=files.root,
        tag=files.tag,
        tags=files.tags,
        latest=files.latest,
        stage=_stage(contents),
        world_size=contents.world_size,
        degrees=Degrees(dp=contents.world_size, tp=contents.grid.tp, pp=contents.grid.pp, ep=_expert_degree(contents)),
        step=first.step,
        ds_version=first.ds_version or (optimizer.ds_version if optimizer else None),
        training_dtype=_training_dtype(contents, parts),
        optimizer=kind if isinstance(kind, str) else None,
        optimizer_state=states,
        param_groups=settings,
        wrapper=_wrapper(contents),
        writer=first.container,
    )


def _wrapper(contents: Contents) -> str:
    if contents.universal:
        return "universal checkpoint"
    wrappers = [o.wrapper for o in contents.all_optimizers[:1]] + [whole.wrapper for whole in contents.all_wholes[:1]]
    return wrappers[0] if wrappers else "none"


def unplaced_of(contents: Contents) -> tuple[str, ...]:
    """Names of optimizer state that is not laid out like the parameters it belongs to."""
    found = {name for optimizer in contents.all_optimizers for name in optimizer.unplaced}
    return tuple(sorted(found | {name for whole in contents.all_wholes for name in whole.unplaced}))


def _stage(contents: Contents) -> int:
    """BF16_Optimizer does not say its stage; the config does, where it is in the file."""
    if contents.universal:
        return contents.universal.stage or 0
    optimizer = next(iter(contents.all_optimizers), None)
    if optimizer is None:
        return 0
    if optimizer.stage is not None:
        return optimizer.stage
    if optimizer.cut is Cut.STRIPED:
        return 3
    for config in (optimizer.ds_config, contents.first.ds_config):
        stage = fields.stage_of(config)
        if stage is not None:
            return stage
    return 1


def _expert_degree(contents: Contents) -> int:
    """Over how many ranks experts are spread: the largest of the groups' degrees."""
    degrees = [len(wholes) for wholes in contents.wholes.values()]
    degrees += [n for layer in contents.first.autoep_layers if type(n := layer.get("ep_size")) is int]
    for optimizer in contents.all_optimizers[:1]:
        flags = optimizer.expert_groups or (False,) * len(optimizer.partitions)
        counts = optimizer.partition_counts or ()
        degrees += [contents.world_size // n for n, is_expert in zip(counts, flags, strict=False) if is_expert]
        ranks = optimizer.partition_ranks or ()
        degrees += [contents.world_size // len(of_group) for of_group in ranks if of_group]
    return max([1, *degrees])


def _training_dtype(contents: Contents, parts: tuple[Part, ...]) -> DType:
    """The dtype of most trainable elements in the module; stage 3 keeps it in its empty placeholders."""
    votes: dict[DType, int] = {}
    if contents.universal and not contents.first.module:  # a pipeline's, without its layers: only the config is left
        config = contents.first.ds_config
        enabled = {key: isinstance(config.get(key), dict) and config[key].get("enabled") for key in ("bf16", "fp16")}
        return DType.BF16 if enabled["bf16"] else DType.F16 if enabled["fp16"] else DType.F32
    placeholders = contents.first.module
    for part in parts:
        for group in part.groups:
            for member in group.members:
                copy = part.module.get(member.name, placeholders.get(member.name))
                if copy is not None and copy.dtype.is_floating:
                    votes[copy.dtype] = votes.get(copy.dtype, 0) + member.numel
        if not part.groups:
            for name, saved in (part.module or part.saved_masters).items():
                copy = placeholders.get(name, saved)
                if name not in part.buffers and copy.dtype.is_floating:
                    votes[copy.dtype] = votes.get(copy.dtype, 0) + copy.numel
    return max(votes, key=lambda dtype: votes[dtype]) if votes else DType.F32
