"""Engines that save, and engines that resume from what they saved; what each holds. Runs on every rank."""

from __future__ import annotations

import gc
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from . import zoo

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from .cases import EngineCase

STATES = ("exp_avg", "exp_avg_sq")
LEARNING_RATE = 3e-3
MORE_STEPS = 3
LINEAR = torch.nn.functional.linear
"""torch's own. Stage 3 puts another in its place, which rounds otherwise, and leaves it there."""


def save(cases: Sequence[EngineCase], folders: Sequence[Path]) -> None:
    """Of each case train, save checkpoint/, write what the engine holds and the losses of the steps after it."""
    for case, folder in zip(cases, folders, strict=True):
        engine = start(case)
        torch.manual_seed(case.seed + 1 + dist.get_rank())
        _train(engine, case.steps)
        engine.save_checkpoint(str(folder / "checkpoint"), client_state={"epoch": 7})
        values = held(engine)
        losses = next_losses(engine, case)
        if dist.get_rank() == 0:
            torch.save(values, folder / "saved.pt")
            (folder / "saved.json").write_text(json.dumps(losses))
        end(engine)


@dataclass(frozen=True, kw_only=True)
class Apart:
    """How an engine differs from the one that saved, before it loads."""

    noise: float = 0.0
    """What is added to trained parameters."""
    scale: float = 1.0
    """By what the settings of param groups are multiplied."""
    eps: float = 1e-8
    """A setting that all param groups have in common."""
    whole_module: bool = False
    """Whether frozen parameters and buffers differ as well."""


def start(case: EngineCase, apart: Apart = Apart()) -> Any:
    """An engine."""
    import deepspeed

    from .train import _param_groups

    deepspeed.init_distributed("gloo")
    torch.manual_seed(case.seed)
    model = zoo.TinyLM(**case.model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(case.freeze))
        if apart.noise and (parameter.requires_grad or apart.whole_module):
            parameter.data += apart.noise * torch.randn(parameter.shape)
    if apart.whole_module:
        for buffer in model.buffers():
            buffer.copy_(torch.zeros_like(buffer))
    groups = _param_groups(model, case.groups)
    for index, group in enumerate(groups):
        group |= {"lr": LEARNING_RATE * apart.scale * (1 + 2 * index), "weight_decay": 0.5 * apart.scale * index}
    if (case.stage, case.dtype) == (0, "fp32"):  # only so are there names in what torch's optimizer saves
        names = {parameter: name for name, parameter in model.named_parameters()}
        for group in groups:
            group["params"] = [(names[parameter], parameter) for parameter in group["params"]]
    optimizer = torch.optim.AdamW(groups, eps=apart.eps)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=case.ds_config)
    return engine


def _train(engine: Any, steps: int) -> list[float]:
    losses = []
    for _ in range(steps):
        loss = engine(torch.randint(0, zoo.VOCABULARY, (2, 5)))
        losses.append(float(loss.detach()))
        engine.backward(loss)
        engine.step()
    return losses


def next_losses(engine: Any, case: EngineCase) -> list[list[float]]:
    """What further steps give: by rank, on data that both engines are given. A collective."""
    torch.manual_seed(case.seed + 100 + dist.get_rank())
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, _train(engine, MORE_STEPS))
    return every


def end(engine: Any) -> None:
    """Let the engine go, so that a process can have many, one after the other."""
    dist.barrier()
    engine.destroy()
    torch.nn.functional.linear = LINEAR
    gc.collect()


def held(engine: Any) -> dict[str, dict[str, Tensor]]:
    """In full, of each trained parameter its master, each state and the step; of every parameter and buffer the value
    that the engine computes with. A collective."""
    from deepspeed.runtime.zero import GatheredParameters

    optimizer = engine.optimizer
    if isinstance(optimizer, torch.optim.Optimizer):  # stage 0 in fp32
        found = _unpartitioned(engine, {parameter: parameter for parameter in engine.module.parameters()}, optimizer)
    elif hasattr(optimizer, "fp32_groups"):  # stage 0
        pairs = zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True)
        masters = {half: master for group in pairs for half, master in zip(*group, strict=True)}
        found = _unpartitioned(engine, masters, optimizer.optimizer)
    elif hasattr(optimizer, "single_partition_of_fp32_groups"):
        found = _from_partitions(optimizer)
    else:
        found = _from_getters(engine)
    for name, parameter in engine.module.named_parameters():
        with GatheredParameters([parameter]):
            found.setdefault(name, {})["weight"] = parameter.detach().clone()
    for name, buffer in engine.module.named_buffers():
        found[name] = {"weight": buffer.clone()}
    return found


def _unpartitioned(engine: Any, masters: dict[Any, Tensor], optimizer: Any) -> dict[str, dict[str, Tensor]]:
    found = {}
    for name, parameter in engine.module.named_parameters():
        if parameter.requires_grad:
            state = optimizer.state[masters[parameter]]
            found[name] = {"fp32": masters[parameter].detach().clone()}
            found[name] |= {key: state[key].clone() for key in STATES}
            found[name]["step"] = torch.tensor(float(state["step"]))
    return found


def _from_getters(engine: Any) -> dict[str, dict[str, Tensor]]:
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    found = {}
    step, *others = {float(state["step"]) for state in engine.optimizer.optimizer.state.values()}
    if others:
        msg = f"flat groups are at different steps: {step}, {others}"
        raise RuntimeError(msg)
    for name, parameter in engine.module.named_parameters():
        if parameter.requires_grad:
            found[name] = {"fp32": safe_get_full_fp32_param(parameter).detach().float().clone()}
            found[name] |= {key: safe_get_full_optimizer_state(parameter, key).clone() for key in STATES}
            found[name]["step"] = torch.tensor(step)
    return found


def _from_partitions(optimizer: Any) -> dict[str, dict[str, Tensor]]:
    """Join every rank's flat partitions, and cut them by the optimizer's own list, which a round robin has shuffled."""
    found: dict[str, dict[str, Tensor]] = {}
    for group, partition in enumerate(optimizer.single_partition_of_fp32_groups):
        state = optimizer.optimizer.state[partition]
        for key, own in [("fp32", partition), *((key, state[key]) for key in STATES)]:
            pieces = [torch.empty_like(own) for _ in range(dist.get_world_size())]
            dist.all_gather(pieces, own.detach().contiguous())
            flat = torch.cat(pieces)
            offsets = optimizer.round_robin_bit16_offsets[group]
            for parameter, start in zip(optimizer.round_robin_bit16_groups[group], offsets, strict=True):
                values = flat[start : start + parameter.numel()].clone().view(parameter.shape)
                found.setdefault(optimizer.param_names[parameter], {})[key] = values
        for parameter in optimizer.round_robin_bit16_groups[group]:
            found[optimizer.param_names[parameter]]["step"] = torch.tensor(float(state["step"]))
    return found
