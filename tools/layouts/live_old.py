"""Live values of releases before 0.9, which have no accessors: the optimizer's partitions, joined by its own lists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from .jobs import Job


def values(job: Job) -> dict[str, dict[str, torch.Tensor]]:
    """Kind -> parameter name -> full value, for ZeRO stages 1 to 3."""
    optimizer = job.engine.optimizer
    names = {id(parameter): name for name, parameter in job.engine.module.named_parameters()}
    if hasattr(optimizer, "local_sub_partitions_of_fp32_groups"):
        return interval_values(optimizer, names)
    found: dict[str, dict[str, torch.Tensor]] = {}
    masters = (
        optimizer.fp32_partitioned_groups_flat if job.case.stage == 3 else optimizer.single_partition_of_fp32_groups
    )
    for group, master in enumerate(masters):
        state = optimizer.optimizer.state.get(master, {})
        kinds = {"master": master, **{key: value for key, value in state.items() if torch.is_tensor(value)}}
        for kind, partition in kinds.items():
            if partition.numel() != master.numel():
                continue
            parts = [torch.empty_like(partition) for _ in range(dist.get_world_size())]
            dist.all_gather(parts, partition.detach().contiguous())
            cut = cut_partitioned if job.case.stage == 3 else cut_flat
            for parameter, value in cut(optimizer, group, parts):
                found.setdefault(kind, {})[names[id(parameter)]] = value
    return found


def interval_values(optimizer: Any, names: dict[int, str]) -> dict[str, dict[str, torch.Tensor]]:
    """The first stage 1: a group is cut into communication intervals, and each interval into one piece a rank."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for group, intervals in enumerate(optimizer.local_sub_partitions_of_fp32_groups):
        kinds: dict[str, list[torch.Tensor]] = {}
        for piece in intervals:
            state = optimizer.optimizer.state.get(piece, {})
            for kind, tensor in {"master": piece, **state}.items():
                if torch.is_tensor(tensor) and tensor.numel() == piece.numel():
                    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
                    dist.all_gather(parts, tensor.detach().contiguous())
                    kinds.setdefault(kind, []).extend(parts)
        for kind, parts in kinds.items():
            for parameter, value in cut_flat(optimizer, group, parts):
                found.setdefault(kind, {})[names[id(parameter)]] = value
    return found


def cut_flat(optimizer: Any, group: int, parts: list[torch.Tensor]) -> list[tuple[Any, torch.Tensor]]:
    """Stages 1 and 2: one flat buffer a group, in the order the optimizer flattened it."""
    for attribute in ("round_robin_bit16_groups", "round_robin_fp16_groups", "bit16_groups", "fp16_groups"):
        if hasattr(optimizer, attribute):
            parameters = getattr(optimizer, attribute)[group]
            break
    flat, start, found = torch.cat(parts), 0, []
    for parameter in parameters:
        found.append((parameter, flat[start : start + parameter.numel()].reshape(parameter.shape)))
        start += parameter.numel()
    return found


def cut_partitioned(optimizer: Any, group: int, parts: list[torch.Tensor]) -> list[tuple[Any, torch.Tensor]]:
    """Stage 3: every parameter's partition lies at the same place on each rank."""
    start, found = 0, []
    for parameter in optimizer.fp16_groups[group]:
        numel = parameter.ds_tensor.numel()
        whole = torch.cat([part[start : start + numel] for part in parts])[: parameter.ds_numel]
        found.append((parameter, whole.reshape(parameter.ds_shape)))
        start += numel
    return found
