"""The values a reader must reproduce, taken from the live engine and confirmed by a second witness.

The witness is the module that computes: after a step its parameters are the masters rounded to the compute dtype, kept
in other buffers, filled by another path and, unlike the getter, certain to be in the right order (the model would not
train otherwise). A fixture whose witnesses disagree is never written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, kw_only=True)
class Truth:
    """tensors: what expected.safetensors holds. ties: alias -> canonical, the first name in module order."""

    tensors: dict[str, Tensor]
    trainable: list[str]
    frozen: list[str]
    buffers: list[str]
    non_persistent: list[str]
    ties: dict[str, str]


class WitnessError(RuntimeError):
    """Two accounts of the live model disagree, so neither can be called the truth."""


def collect(engine: Any, *, compute_dtype: torch.dtype, exclude_frozen: bool) -> Truth:
    """Gather every tensor of the model; a collective, to be called on all ranks.

    Masters come back fp32 and frozen parameters in their own dtype, both in full shape; buffers in their own dtype.
    """
    module: nn.Module = engine.module
    parameters = dict(module.named_parameters())
    masters = _masters(engine, parameters)
    tensors: dict[str, Tensor] = {}
    trainable, frozen = [], []
    carries_more = compute_dtype == torch.float32
    for name, live in _live_values(parameters):
        if _is_optimized(parameters[name]):
            trainable.append(name)
            master = masters[name].detach().float().reshape(live.shape).contiguous()
            _confirm(name, master, live, compute_dtype)
            carries_more |= not torch.equal(master, live.float())
            tensors[name] = master
        else:
            frozen.append(name)
            if not exclude_frozen:
                tensors[name] = live
    if not carries_more:
        msg = "every master equals its 16-bit copy: a reader that took the wrong one would go unnoticed"
        raise WitnessError(msg)
    buffers, non_persistent = _buffers(module)
    tensors.update(buffers)
    return Truth(
        tensors=tensors,
        trainable=trainable,
        frozen=frozen,
        buffers=list(buffers),
        non_persistent=non_persistent,
        ties=_ties(module),
    )


def _masters(engine: Any, parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    from deepspeed.utils import safe_get_full_fp32_param

    if engine.zero_round_robin_gradients() and engine.zero_optimization_stage() < 3:
        # DeepSpeed links names to fragments in the order the parameters came in, but lays them out shuffled, so its
        # getter answers with other parameters' values here.
        return _masters_from_partitions(engine.optimizer)
    return {name: safe_get_full_fp32_param(p) for name, p in parameters.items() if _is_optimized(p)}


def _is_optimized(parameter: nn.Parameter) -> bool:
    """DeepSpeed gives a parameter without elements to no optimizer, and saves it among the frozen ones."""
    return parameter.requires_grad and getattr(parameter, "ds_numel", parameter.numel()) > 0


def _masters_from_partitions(optimizer: Any) -> dict[str, Tensor]:
    """Join every rank's flat partition and cut it by the optimizer's own shuffled list (ZeRO-1 and 2)."""
    masters = {}
    for group, partition in enumerate(optimizer.single_partition_of_fp32_groups):
        pieces = [torch.empty_like(partition) for _ in range(dist.get_world_size())]
        dist.all_gather(pieces, partition.detach().contiguous())
        flat = torch.cat(pieces)
        offsets = optimizer.round_robin_bit16_offsets[group]
        for parameter, start in zip(optimizer.round_robin_bit16_groups[group], offsets, strict=True):
            masters[optimizer.param_names[parameter]] = flat[start : start + parameter.numel()].clone()
    return masters


def _live_values(parameters: dict[str, nn.Parameter]) -> Iterator[tuple[str, Tensor]]:
    """The module's own values in full shape; ZeRO-3 gathers them one parameter at a time."""
    import deepspeed

    for name, parameter in parameters.items():
        partitioned = [parameter] if hasattr(parameter, "ds_id") else []
        with deepspeed.zero.GatheredParameters(partitioned):
            yield name, parameter.detach().clone(memory_format=torch.contiguous_format)


def _confirm(name: str, master: Tensor, live: Tensor, compute_dtype: torch.dtype) -> None:
    if live.dtype != compute_dtype:
        msg = f"{name} computes in {live.dtype}, expected {compute_dtype}"
        raise WitnessError(msg)
    if _bytes(master.to(compute_dtype)) != _bytes(live):
        msg = f"{name}: the master rounded to {compute_dtype} is not what the module computes with"
        raise WitnessError(msg)


def _bytes(tensor: Tensor) -> bytes:
    """Bit patterns, so that NaN equals itself and -0.0 does not equal 0.0."""
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _buffers(module: nn.Module) -> tuple[dict[str, Tensor], list[str]]:
    persistent = module.state_dict(keep_vars=True)
    kept, dropped = {}, []
    for name, buffer in module.named_buffers():
        if name in persistent:
            kept[name] = buffer.detach().clone(memory_format=torch.contiguous_format)
        else:
            dropped.append(name)
    return kept, dropped


def _ties(module: nn.Module) -> dict[str, str]:
    canonical: dict[int, str] = {}
    ties = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        first = canonical.setdefault(id(parameter), name)
        if first != name:
            ties[name] = first
    return ties
