"""Stand-ins for what a machine without a GPU lacks, each used by the cases that name it.

A patch may change how a job computes, never how it saves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def fused_adam() -> None:
    """Let the engine take `torch.optim.AdamW` for its fused Adam, so that it picks `FP16_Optimizer`."""
    import torch
    from deepspeed.runtime import engine

    engine.FusedAdam = torch.optim.AdamW


def eager_muon() -> None:
    """Muon's update is compiled; on a small machine compiling takes longer than a distributed time-out allows."""
    from deepspeed.runtime import compiler

    compiler.compile = lambda *_args, **_kwargs: lambda function: function


def python_operators() -> None:
    """CPU Adam and file access in Python instead of compiled extensions."""
    from . import ops

    ops.install()


def unpinned_buffers() -> None:
    """Memory is pinned for a GPU's sake; the fast writer asks for it on any machine."""
    import torch

    torch.Tensor.pin_memory = lambda self, *_args: self


def leaf_masters() -> None:
    """The decoupled writer sends the state to another process; torch sends detached tensors only."""
    import torch
    from deepspeed.runtime.checkpoint_engine import decoupled_checkpoint_engine

    def detached(value: object) -> object:
        if isinstance(value, torch.Tensor):
            return value.detach()
        if isinstance(value, dict):
            return type(value)((key, detached(item)) for key, item in value.items())
        return type(value)(map(detached, value)) if type(value) in (list, tuple) else value

    engine = decoupled_checkpoint_engine.DecoupledCheckpointEngine
    save = engine.save
    engine.save = lambda self, state_dict, path: save(self, detached(state_dict), path)


def blockwise_adam() -> None:
    """bitsandbytes has no CPU kernel for its 8-bit Adam: the same update in torch. State and saving are its own."""
    import bitsandbytes.functional
    import torch

    block = 256

    def read(state: torch.Tensor, code: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        return code[state.long()] * scales.repeat_interleave(block)[: state.numel()]

    def write(values: torch.Tensor, state: torch.Tensor, code: torch.Tensor, scales: torch.Tensor) -> None:
        padded = torch.nn.functional.pad(values, (0, -values.numel() % block)).reshape(-1, block)
        scales.copy_(padded.abs().amax(1))
        scaled = values / scales.clamp_min(1e-30).repeat_interleave(block)[: values.numel()]
        state.copy_((scaled[:, None] - code).abs().argmin(1))

    def update(
        name: str, g: torch.Tensor, p: torch.Tensor, state1: torch.Tensor, state2: torch.Tensor, beta1: float,
        beta2: float, beta3: float, alpha: float, eps: float, step: int, lr: float, qmap1: torch.Tensor,
        qmap2: torch.Tensor, absmax1: torch.Tensor, absmax2: torch.Tensor, weight_decay: float, *_rest: object,
    ) -> None:  # fmt: skip
        first = read(state1, qmap1, absmax1) * beta1 + g * (1 - beta1)
        second = read(state2, qmap2, absmax2) * beta2 + g * g * (1 - beta2)
        slope = first / (1 - beta1**step) / ((second / (1 - beta2**step)).sqrt() + eps)
        p.mul_(1 - lr * weight_decay).sub_(lr * slope)
        write(first, state1, qmap1, absmax1)
        write(second, state2, qmap2, absmax2)

    bitsandbytes.functional.is_on_gpu = lambda _tensors: True
    torch.library.register_kernel("bitsandbytes::optimizer_update_8bit_blockwise", "cpu", update)


def small_swap_files() -> None:
    """Swap out groups of a kilobyte; DeepSpeed leaves groups below one megabyte in memory."""
    from deepspeed.runtime.swap_tensor import optimizer_utils

    optimizer_utils.MIN_AIO_BYTES = 1024


def superoffload_on_cpu() -> None:
    """SuperOffload insists on CUDA; what it saves does not depend on it.

    Its worker is forked, not spawned, so that it inherits the operators this process uses.
    """
    import multiprocessing
    import types

    from deepspeed.accelerator import get_accelerator
    from deepspeed.runtime.superoffload import superoffload_stage3, superoffload_utils

    superoffload_stage3._validate_superoffload_accelerator = lambda: None
    superoffload_utils.mp.get_context = lambda _method: multiprocessing.get_context("fork")
    type(get_accelerator()).current_stream = lambda self, *_: types.SimpleNamespace(synchronize=lambda: None)


def record_registry() -> None:
    """transformers' output registry takes no default in `get`, which AutoEP of this DeepSpeed passes."""
    from transformers.utils import output_capturing

    registry = output_capturing._CanRecordRegistry
    get = registry.get

    def get_or(self: object, key: object, default: object = None) -> object:
        found = get(self, key)
        return default if found is None else found

    registry.get = get_or


PATCHES: dict[str, Callable[[], None]] = {
    patch.__name__: patch
    for patch in (
        blockwise_adam,
        fused_adam,
        eager_muon,
        python_operators,
        record_registry,
        small_swap_files,
        superoffload_on_cpu,
        unpinned_buffers,
        leaf_masters,
    )
}
