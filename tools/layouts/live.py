"""The values a running engine holds, by the parameter's name: the truth that fixtures are judged by.

Nothing here reads a checkpoint. Two sources that DeepSpeed maintains apart are recorded: the optimizer's masters and
moments, and the 16-bit weights the forward pass uses; `assemble` demands that the first, rounded, equal the second.
"""

from __future__ import annotations

import itertools
import json
import re
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from . import live_old
from .compat import before_accelerators
from .jobs import find_aliases

if TYPE_CHECKING:
    from pathlib import Path

    from .jobs import Job

Values = dict[str, dict[str, torch.Tensor]]
"""Kind (master, half, exp_avg, ...) -> parameter name -> full local value in the parameter's shape."""


def record(job: Job, folder: Path) -> None:
    """Write this rank's view to `folder`/rank_R.safetensors, facts about it in the header."""
    module = job.engine.module
    values = optimizer_values(job)
    values["half"] = module_values(job)
    if job.case.model in {"tensor", "uneven"}:
        unshard(job, values)
    names = global_names(job)
    tensors = {
        f"{kind}:{names.get(name, name)}": tensor.detach().cpu().clone().contiguous()
        for kind, by_name in values.items()
        for name, tensor in by_name.items()
    }
    saved = module.state_dict().keys()
    buffers = {name: buffer for name, buffer in module.named_buffers() if name in saved or job.case.pp > 1}
    tensors.update({f"buffer:{name}": buffer.detach().clone().contiguous() for name, buffer in buffers.items()})
    whole_shapes = {}
    for name, parameter in module.named_parameters():
        if hasattr(parameter, "positions"):
            tensors[f"positions:{name}"] = parameter.positions
            whole_shapes[name] = parameter.whole_shape
    facts = {
        "whole_shapes": whole_shapes,
        "frozen": [name for name, parameter in module.named_parameters() if not parameter.requires_grad],
        "aliases": {names.get(a, a): names.get(b, b) for a, b in find_aliases(module).items()},
        "order": [names.get(name, name) for name, _ in module.named_parameters()],
        "stacked": stacked_experts(job),
        "optimizer_class": type(job.engine.optimizer).__name__,
        "ds_config": job.config,
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / f"rank_{dist.get_rank()}.safetensors", metadata={"facts": json.dumps(facts)})


def module_values(job: Job) -> dict[str, torch.Tensor]:
    """Weights as the forward pass sees them; stage 3 gathers each one first."""
    from deepspeed.runtime.zero import GatheredParameters

    values = {}
    for name, parameter in job.engine.module.named_parameters():
        if hasattr(parameter, "ds_id"):
            with GatheredParameters([parameter]):
                values[name] = parameter.detach().clone()
        else:
            values[name] = parameter.detach().clone()
    return values


def optimizer_values(job: Job) -> Values:
    optimizer = job.engine.optimizer
    if hasattr(optimizer, "fp16_groups") and hasattr(optimizer, "fp32_groups") and job.case.stage == 0:
        return unfused_values(job)
    if hasattr(optimizer, "fp16_groups") and hasattr(optimizer, "fp32_groups_flat") and job.case.stage == 0:
        return fused_values(job)
    if hasattr(optimizer, "round_robin_bit16_groups") and not before_accelerators():
        return flat_values(job)
    if isinstance(optimizer, torch.optim.Optimizer):
        return plain_values(job)
    if before_accelerators():
        return live_old.values(job)
    return accessor_values(job)


def plain_values(job: Job) -> Values:
    """Stage 0 in fp32: the module's parameters are the masters."""
    values: Values = {"master": {}}
    for name, parameter in trainable(job).items():
        values["master"][name] = parameter.detach()
        add_moments(values, name, job.engine.optimizer.state.get(parameter, {}), parameter.shape)
    return values


def unfused_values(job: Job) -> Values:
    """Stage 0 with `FP16_UnfusedOptimizer`: one master a parameter, paired by the optimizer's own lists."""
    optimizer, names = job.engine.optimizer, names_by_id(job)
    values: Values = {"master": {}}
    for halves, masters in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True):
        for half, master in zip(halves, masters, strict=True):
            values["master"][names[id(half)]] = master.detach()
            add_moments(values, names[id(half)], optimizer.optimizer.state.get(master, {}), half.shape)
    return values


def fused_values(job: Job) -> Values:
    """Stage 0 with `FP16_Optimizer`: one flat master a group, in the order of the group's parameters."""
    optimizer, names = job.engine.optimizer, names_by_id(job)
    values: Values = {"master": {}}
    for halves, flat in zip(optimizer.fp16_groups, optimizer.fp32_groups_flat, strict=True):
        state = optimizer.optimizer.state.get(flat, {})
        kinds = {"master": flat, **{k: v for k, v in state.items() if is_moment(v) and v.numel() == flat.numel()}}
        for kind, tensor in kinds.items():
            start = 0
            for half in halves:
                piece = tensor.detach()[start : start + half.numel()]
                values.setdefault(kind, {})[names[id(half)]] = piece.reshape(half.shape)
                start += half.numel()
    return values


def flat_values(job: Job) -> Values:
    """Stages 1 and 2: the partitions of each group, joined and cut at the offsets of the live optimizer.

    `safe_get_full_fp32_param` links names in the unshuffled order and is wrong under `round_robin_gradients`;
    everywhere else it must agree with what is cut here.
    """
    optimizer = job.engine.optimizer
    values: Values = {"master": {}}
    for group, parameters in enumerate(optimizer.round_robin_bit16_groups):
        master = optimizer.single_partition_of_fp32_groups[group]
        state = optimizer.optimizer.state.get(optimizer.optimizer.param_groups[group]["params"][0], {})
        if not state and isinstance(optimizer.optimizer.state, dict):
            state = optimizer.optimizer.state.get(group, {})
        kinds = {"master": master, **{k: v for k, v in state.items() if is_moment(v) and v.numel() == master.numel()}}
        # Recorded since parameters can be aligned; before that they lie end to end.
        ends = list(itertools.accumulate(parameter.numel() for parameter in parameters))
        offsets = getattr(optimizer, "round_robin_bit16_offsets", None)
        starts = offsets[group] if offsets else [0, *ends[:-1]]
        for kind, partition in kinds.items():
            flat = gather_flat(partition.detach(), optimizer.real_dp_process_group[group])
            for parameter, start in zip(parameters, starts, strict=True):
                piece = flat[start : start + parameter.numel()].reshape(parameter.shape)
                values.setdefault(kind, {})[optimizer.param_names[parameter]] = piece
    # Nor does it know expert groups in old releases.
    trusted = job.case.deepspeed is None or job.case.model == "net"
    if trusted and not job.config["zero_optimization"].get("round_robin_gradients") and job.case.masters == "fp32":
        compare_with_accessor(job, values["master"])
    return values


def compare_with_accessor(job: Job, masters: dict[str, torch.Tensor]) -> None:
    for name, value in accessor_values(job, moments=False)["master"].items():
        if not torch.equal(value, masters[name]):
            raise ValueError(f"{name}: safe_get_full_fp32_param and the live partitions differ")


def gather_flat(partition: torch.Tensor, group: Any) -> torch.Tensor:
    parts = [torch.empty_like(partition) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, partition.contiguous(), group=group)
    return torch.cat([part.flatten() for part in parts])


def accessor_values(job: Job, *, moments: bool = True) -> Values:
    """Everything else, through DeepSpeed's public accessors."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    values: Values = {"master": {}}
    keys = moment_keys(job) if moments and job.case.moments else []
    for name, parameter in trainable(job).items():
        shape = getattr(parameter, "ds_shape", parameter.shape)
        master = safe_get_full_fp32_param(parameter)
        if master is None:
            raise ValueError(f"{name}: the live engine gives no fp32 value")
        values["master"][name] = master.detach().reshape(shape)
        for key in keys:
            try:
                moment = safe_get_full_optimizer_state(parameter, key)
            except (KeyError, ValueError):
                continue  # another group's state: Muon keeps a momentum for matrices, Adam's moments for the rest
            values.setdefault(key, {})[name] = moment.detach().reshape(shape)
    return values


def moment_keys(job: Job) -> list[str]:
    base = getattr(job.engine.optimizer, "optimizer", job.engine.optimizer)
    states = [state for state in base.state.values() if isinstance(state, dict)]
    return sorted({key for state in states for key, value in state.items() if is_moment(value)})


def is_moment(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim > 0


def add_moments(values: Values, name: str, state: dict[str, Any], shape: torch.Size) -> None:
    for key, value in state.items():
        if is_moment(value) and value.shape == shape:
            values.setdefault(key, {})[name] = value.detach()


def trainable(job: Job) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in job.engine.module.named_parameters() if p.requires_grad}


def names_by_id(job: Job) -> dict[int, str]:
    return {id(parameter): name for name, parameter in job.engine.module.named_parameters()}


def unshard(job: Job, values: Values) -> None:
    """Replace tensor-parallel shards by the whole tensors, joined by the layers that split them."""
    for prefix, module in job.engine.module.named_modules():
        own = list(module.named_parameters(recurse=False))
        if not own or not hasattr(module, "gather_params"):
            continue
        for by_name in values.values():
            if any(f"{prefix}.{name}" not in by_name for name, _ in own):
                continue
            kept = [parameter.data for _, parameter in own]
            for name, parameter in own:
                parameter.data = by_name[f"{prefix}.{name}"].clone()
            module.gather_params([parameter for _, parameter in own])
            for (name, parameter), data in zip(own, kept, strict=True):
                by_name[f"{prefix}.{name}"] = parameter.data.clone().contiguous()
                parameter.data = data


def check_unshard(job: Job) -> None:
    """Before training, joining the shards must give back the model that was handed to DeepSpeed."""
    if job.case.model not in {"tensor", "uneven"}:
        return
    values: Values = {"half": module_values(job)}
    unshard(job, values)
    for name, value in values["half"].items():
        if not torch.equal(value, job.initial[name].to(value.dtype)):
            raise ValueError(f"{name}: the shards of the fresh model do not join to the original")


def global_names(job: Job) -> dict[str, str]:
    """Local -> global parameter names, where experts are numbered per rank."""
    if job.case.model not in {"experts", "two_degrees"}:
        return {}
    from deepspeed.moe.layer import MoE

    names = {}
    for prefix, module in job.engine.module.named_modules():
        if isinstance(module, MoE):
            first = dist.get_rank() % module.ep_size * module.num_local_experts
            pattern = re.compile(rf"({re.escape(prefix)}\.deepspeed_moe\.experts\.deepspeed_experts\.)(\d+)(\..*)")
            for name, _ in job.engine.module.named_parameters():
                if match := pattern.fullmatch(name):
                    names[name] = f"{match[1]}{int(match[2]) + first}{match[3]}"
    return names


def stacked_experts(job: Job) -> dict[str, tuple[int, int]]:
    """AutoEP's fused expert weights: name -> (this rank's position, number of positions) along dimension 0."""
    if job.case.model != "mixtral":
        return {}
    position = (dist.get_rank() % job.case.ep, job.case.ep)
    return {n: position for n, _ in job.engine.module.named_parameters() if re.search(r"\.experts\.w[123]$", n)}
