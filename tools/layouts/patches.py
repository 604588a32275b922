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


PATCHES: dict[str, Callable[[], None]] = {"fused_adam": fused_adam}
