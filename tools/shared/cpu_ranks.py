"""Several ranks on one machine without a GPU."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any


def free_port() -> int:
    """A TCP port nobody listens on, for the ranks to meet at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def remove_buffers(port: int) -> None:
    """Remove what DeepSpeed's shared-memory collectives leave behind, 66 MiB a rank, when no rank is left that met at
    this port. DeepSpeed never does."""
    for left in Path("/dev/shm").glob(f"deepspeed_allreduce_buffer_*_127.0.0.1_{port}_*"):
        left.unlink(missing_ok=True)


def convince_accelerate() -> None:
    """Let accelerate start DeepSpeed over gloo, and transformers accept bf16, without a GPU. Call it before anything
    imports a Trainer.

    Without CUDA, accelerate's `PartialState` decides that a launched process is alone: every rank calls itself rank 0,
    all of them write the checkpoint, and the files race. DeepSpeed itself needs only `DS_ACCELERATOR=cpu`.
    """
    import torch
    import transformers.training_args
    from accelerate.state import DistributedType, PartialState

    def set_device(state: Any) -> None:
        state.device = torch.device("cpu")

    # MULTI_GPU only means "several ranks, one device each"; DeepSpeed then overrides it.
    PartialState._prepare_backend = lambda *_args, **_kwargs: ("gloo", DistributedType.MULTI_GPU)
    PartialState.set_device = set_device
    transformers.training_args.is_torch_bf16_gpu_available = lambda: True
