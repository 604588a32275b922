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
    for patch in (fused_adam, eager_muon, python_operators, record_registry, small_swap_files, superoffload_on_cpu)
}
