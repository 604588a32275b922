"""Save an engine, resume others from a universal checkpoint of it, and say what each holds. Runs on every rank."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from . import zoo

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from .cases import EngineCase

STATES = ("exp_avg", "exp_avg_sq")
LEARNING_RATE = 3e-3
MORE_STEPS = 3


def save(case: EngineCase, folder: Path) -> None:
    """Train, save checkpoint/, write what the engine holds and the losses of the steps after it."""
    engine = _engine(case)
    torch.manual_seed(case.seed + 1 + dist.get_rank())
    _train(engine, case.steps)
    engine.save_checkpoint(str(folder / "checkpoint"), client_state={"epoch": 7})
    _record(engine, folder / "saved.pt")
    _record_losses(engine, case, folder / "saved.json")


def resume(case: EngineCase, universal: Path, folder: Path, own_steps: bool) -> None:
    """Load a universal checkpoint into an engine with other weights and another learning rate, and do the same.

    `own_steps`: give every flat group a step of its own, which DeepSpeed's loader at stage 3 forgets.
    """
    # What all groups have in common must come from the checkpoint. Stage 3 has no place for what differs, so that is
    # for the program to set.
    engine = _engine(case, noise=0.1, lr=LEARNING_RATE if len(case.groups) > 1 else 9e-3, eps=1e-5)
    _, client_state = engine.load_checkpoint(str(universal))
    if own_steps:
        for state in engine.optimizer.optimizer.state.values():
            state["step"] = state["step"].clone()
    if client_state["epoch"] != 7 or engine.global_steps != case.steps:
        msg = f"the client state or the step is lost: {client_state.get('epoch')}, {engine.global_steps}"
        raise RuntimeError(msg)
    _record(engine, folder / "resumed.pt")
    _record_losses(engine, case, folder / "resumed.json")


def _engine(case: EngineCase, *, noise: float = 0.0, lr: float = LEARNING_RATE, eps: float = 1e-8) -> Any:
    import deepspeed

    from .train import _param_groups

    deepspeed.init_distributed("gloo")
    torch.manual_seed(case.seed)
    model = zoo.TinyLM(**case.model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(case.freeze))
        if parameter.requires_grad and noise:
            parameter.data += noise * torch.randn(parameter.shape)
    groups = _param_groups(model, case.groups)
    for index, group in enumerate(groups):
        group |= {"lr": lr * (1 + 2 * index), "weight_decay": 0.5 * index}
    optimizer = torch.optim.AdamW(groups, eps=eps)
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


def _record_losses(engine: Any, case: EngineCase, path: Path) -> None:
    """What further steps give: by rank, on data that both engines are given."""
    torch.manual_seed(case.seed + 100 + dist.get_rank())
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, _train(engine, MORE_STEPS))
    if dist.get_rank() == 0:
        path.write_text(json.dumps(every))
    dist.barrier()


def _record(engine: Any, path: Path) -> None:
    values = held(engine)
    if dist.get_rank() == 0:
        torch.save(values, path)
    dist.barrier()


def held(engine: Any) -> dict[str, dict[str, Tensor]]:
    """By parameter: its master, each state and the step, in full. A collective."""
    optimizer = engine.optimizer
    if hasattr(optimizer, "single_partition_of_fp32_groups"):
        return _from_partitions(optimizer)
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    found = {}
    step = next(iter(optimizer.optimizer.state.values()))["step"]
    for name, parameter in engine.module.named_parameters():
        if parameter.requires_grad:
            found[name] = {"fp32": safe_get_full_fp32_param(parameter).detach().float().clone()}
            found[name] |= {key: safe_get_full_optimizer_state(parameter, key).clone() for key in STATES}
            found[name]["step"] = torch.as_tensor(step).clone()
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
            found[optimizer.param_names[parameter]]["step"] = torch.as_tensor(state["step"]).clone()
    return found
