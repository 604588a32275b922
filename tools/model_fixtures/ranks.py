"""Lets accelerate and transformers run a DeepSpeed job of several CPU ranks under `torchrun`.

Without CUDA, accelerate's `PartialState` decides that a launched process is alone: every rank calls itself rank 0, all
of them write the checkpoint, and the files race. DeepSpeed itself needs only `DS_ACCELERATOR=cpu`. `install()` must run
before anything imports a Trainer.
"""

from __future__ import annotations

import os

import torch


def install() -> None:
    """Teach accelerate the gloo backend and the CPU device, and transformers that bf16 needs no GPU."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

    import transformers.training_args
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    def prepare_backend(self: PartialState, *_args: object, **_kwargs: object) -> tuple[str, DistributedType]:
        # MULTI_GPU only means "several ranks, one device each"; DeepSpeed then overrides it.
        return "gloo", DistributedType.MULTI_GPU

    def set_device(self: PartialState) -> None:
        self.device = self.device or torch.device("cpu")

    PartialState._prepare_backend = prepare_backend
    PartialState.set_device = set_device
    transformers.training_args.is_torch_bf16_gpu_available = lambda: True
