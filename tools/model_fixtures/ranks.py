"""Lets accelerate, transformers and peft run a DeepSpeed job of several CPU ranks under `torchrun`. `install()` must
run before anything imports a Trainer."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from shared.cpu_ranks import convince_accelerate

if TYPE_CHECKING:
    import torch


def install() -> None:
    """Teach accelerate and peft the CPU device, accelerate the gloo backend, transformers that bf16 needs no GPU."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

    import peft.tuners.trainable_tokens.layer as trainable_tokens

    def collect_token_weights(
        _self: object, weight: torch.nn.Parameter, rows: list[int], _embed_dim: int
    ) -> torch.Tensor:
        # peft gathers the rows on one rank and broadcasts them through CUDA memory; here every rank gathers.
        with trainable_tokens.gather_params_ctx([weight], modifier_rank=None):
            return weight[rows].detach().clone()

    convince_accelerate()
    trainable_tokens.TrainableTokensLayer._collect_token_weights = collect_token_weights
