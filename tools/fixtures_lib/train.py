"""Train one engine case and leave its files in a folder. Everything here runs on every rank."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from shared.folders import COPIED_SCRIPTS

from . import provenance, truth, zoo

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from .cases import EngineCase

TORCH_DTYPE = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def train(case: EngineCase, folder: Path) -> None:
    """Write checkpoint/, expected.safetensors and provenance.json of `case` into the existing `folder`."""
    import deepspeed

    deepspeed.init_distributed("gloo")
    rank = dist.get_rank()
    torch.manual_seed(case.seed)
    model = zoo.TinyLM(**case.model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(case.freeze))
    optimizer = torch.optim.AdamW(_param_groups(model, case.groups), lr=3e-3)
    if not case.broadcast:
        _leave_out_the_first_broadcast()
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=case.ds_config)

    torch.manual_seed(case.seed + 1 + rank)  # every rank sees data of its own
    for _ in range(case.steps):
        engine.backward(engine(torch.randint(0, zoo.VOCABULARY, (2, 5))))
        engine.step()
    if engine.skipped_steps:
        msg = f"{engine.skipped_steps} of {case.steps} steps overflowed and were skipped"
        raise RuntimeError(msg)

    checkpoint = folder / "checkpoint"
    engine.save_checkpoint(
        str(checkpoint),
        client_state=case.client_state,
        exclude_frozen_parameters=case.exclude_frozen_parameters,
    )
    values = truth.collect(engine, compute_dtype=TORCH_DTYPE[case.dtype], exclude_frozen=case.exclude_frozen_parameters)
    dist.barrier()  # every rank's files are there before their digests are taken
    if rank == 0:
        for script in COPIED_SCRIPTS:
            (checkpoint / script).unlink(missing_ok=True)
        save_file(values.tensors, folder / "expected.safetensors", metadata={"format": "pt"})
        facts = asdict(case)
        provenance.write(
            folder,
            case=facts.pop("name"),
            description=facts.pop("description"),
            **facts,
            step=engine.global_steps,
            optimizer="torch.optim.AdamW",
            ds_config=case.ds_config,
            **provenance.names(values),
        )
    dist.barrier()


def _param_groups(model: nn.Module, endings: tuple[str, ...]) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = [{"params": [], "weight_decay": 0.01 * index} for index in range(len(endings))]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            fits = next(index for index, ending in enumerate(endings) if name.endswith(ending))
            groups[fits]["params"].append(parameter)
    return groups


def _leave_out_the_first_broadcast() -> None:
    """Patch deepspeed in this process; `EngineCase.broadcast` says when and why."""
    from deepspeed import DeepSpeedEngine
    from deepspeed.runtime.zero.partition_parameters import Init

    def partition(init: Init, parameter: nn.Parameter) -> None:
        init._convert_to_deepspeed_param(parameter)
        parameter.partition()

    DeepSpeedEngine._broadcast_model = lambda engine: None
    Init._zero_init_param = partition
