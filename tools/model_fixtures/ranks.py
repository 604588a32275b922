"""Lets accelerate and transformers run a DeepSpeed job of several CPU ranks under `torchrun`.

Without CUDA, accelerate's `PartialState` decides that a launched process is alone: every rank calls itself rank 0, all
of them write the checkpoint, and the files race. DeepSpeed itself needs only `DS_ACCELERATOR=cpu`. `install()` must run
before anything imports a Trainer.
"""

from __future__ import annotations

import os

import torch


def install() -> None:
    """Teach accelerate and peft the CPU device, accelerate the gloo backend, transformers that bf16 needs no GPU."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

    import peft.tuners.trainable_tokens.layer as trainable_tokens
    import transformers.training_args
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    def prepare_backend(self: PartialState, *_args: object, **_kwargs: object) -> tuple[str, DistributedType]:
        # MULTI_GPU only means "several ranks, one device each"; DeepSpeed then overrides it.
        return "gloo", DistributedType.MULTI_GPU

    def set_device(self: PartialState) -> None:
        self.device = self.device or torch.device("cpu")

    def collect_token_weights(
        _self: object, weight: torch.nn.Parameter, rows: list[int], _embed_dim: int
    ) -> torch.Tensor:
        # peft gathers the rows on one rank and broadcasts them through CUDA memory; here every rank gathers.
        with trainable_tokens.gather_params_ctx([weight], modifier_rank=None):
            return weight[rows].detach().clone()

    PartialState._prepare_backend = prepare_backend
    PartialState.set_device = set_device
    transformers.training_args.is_torch_bf16_gpu_available = lambda: True
    trainable_tokens.TrainableTokensLayer._collect_token_weights = collect_token_weights
