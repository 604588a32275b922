"""A training job of a case: model, optimizer, engine, and one step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import deepspeed
import torch
import torch.distributed as dist

from . import megatron
from .case import Case, ds_config
from .models import BUILDERS, VOCAB
from .patches import PATCHES

if TYPE_CHECKING:
    from collections.abc import Callable


def adamw_8bit(parameters: Any) -> torch.optim.Optimizer:
    """bitsandbytes' AdamW, with 8-bit moments for small tensors too."""
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(parameters, lr=3e-3, min_8bit_size=16)


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=3e-3),
    "adamw_named": lambda parameters: torch.optim.AdamW(parameters, lr=3e-3),
    "amsgrad": lambda parameters: torch.optim.AdamW(parameters, lr=3e-3, amsgrad=True),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=1e-2),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=1e-2, momentum=0.9),
    "adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=1e-2),
    "adafactor": lambda parameters: torch.optim.Adafactor(parameters, lr=1e-2),
    "adamw_8bit": adamw_8bit,
}

TENSOR_PARALLEL_SPECS = {
    "use_default_specs": False,
    "layer_specs": [
        {"patterns": [r".*\.o_proj\.weight$", r".*\.down\.weight$"], "partition_type": "row"},
        {"patterns": [r".*\.q_proj\.weight$", r".*\.up\.weight$"], "partition_type": "column"},
        {"patterns": [r".*\.gate_up\.weight$"], "partition_type": "column", "shape": [2, -1], "partition_dim": 0},
        {"patterns": [r".*\.qkv\.weight$"], "partition_type": "column", "shape": [[8, 4, 4], -1], "partition_dim": 0},
    ],
}


@dataclass(slots=True)
class Job:
    """A running engine and what is needed to read it."""

    case: Case
    engine: Any
    config: dict[str, Any]
    initial: dict[str, torch.Tensor]
    """The whole model's parameters before DeepSpeed took it, by name."""
    client_state: dict[str, Any]
    """What the client saves beside the model."""

    def step(self) -> float:
        """Train on the next batch; returns the loss."""
        if hasattr(self.engine, "train_batch"):
            batches = [(random_ids(), torch.zeros(2)) for _ in range(2)]
            return float(self.engine.train_batch(iter(batches)))
        ids = random_ids()
        loss = self.engine(input_ids=ids, labels=ids).loss if self.case.model == "mixtral" else self.engine(ids)
        self.engine.backward(loss)
        # Old releases write into views of the flat 16-bit buffer, which newer torch forbids while it records.
        with torch.no_grad():
            self.engine.step()
        return float(loss.detach())


def random_ids() -> torch.Tensor:
    return torch.randint(0, min(VOCAB, megatron.VOCAB), (2, 6))


def start(case: Case) -> Job:
    """Build the model, hand it to DeepSpeed, seed the data."""
    for patch in case.patches:
        PATCHES[patch]()
    torch.manual_seed(1234)
    model = BUILDERS[case.model](case)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in case.frozen)
    initial = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    config = full_config(case)
    parameters = parameter_groups(case, model)
    # A config that names an optimizer gets parameters, otherwise the client brings a finished one.
    made = (
        {"model_parameters": parameters}
        if case.optimizer == "config"
        else {"optimizer": OPTIMIZERS[case.optimizer](parameters)}
    )
    client_state = dict(case.client_state)
    if case.model == "megatron":
        client_state["universal_checkpoint_info"] = model.universal_info
        if case.pp == 1:
            made["mpu"] = model.grid[0]
    engine, *_ = deepspeed.initialize(model=model, config=config, **made)
    # Ranks of one tensor-parallel group must see the same batch.
    torch.manual_seed(99 + dist.get_rank() // case.tp)
    return Job(case, engine, config, initial, client_state)


def full_config(case: Case) -> dict[str, Any]:
    config = ds_config(case)
    if case.model in {"tensor", "uneven"}:
        config["tensor_parallel"] = {"autotp_size": case.tp, "partition_config": TENSOR_PARALLEL_SPECS}
    if case.model == "mixtral":
        config["expert_parallel"] = {"enabled": True, "autoep_size": case.ep, "preset_model": "mixtral"}
    return config


def find_aliases(model: torch.nn.Module) -> dict[str, str]:
    """Second name of a shared parameter -> the name it has in `named_parameters()`."""
    canonical = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        name: canonical[id(parameter)]
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if canonical[id(parameter)] != name
    }


def parameter_groups(case: Case, model: torch.nn.Module) -> Any:
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if case.optimizer == "adamw_named":
        return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if case.model in {"experts", "two_degrees"}:
        from deepspeed.moe.utils import split_params_into_different_moe_groups_for_optimizer

        return split_params_into_different_moe_groups_for_optimizer({"params": trainable, "name": "all"})
    if case.groups:
        return [
            {"params": [parameter for parameter in trainable if parameter.ndim > 1]},
            {"params": [parameter for parameter in trainable if parameter.ndim <= 1], "weight_decay": 0.0},
        ]
    return trainable
