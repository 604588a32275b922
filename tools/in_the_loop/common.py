"""What trainings with either Trainer share: the truth at each save, a death in the middle of one, step times."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One training."""

    out: Path
    """The run directory is `out/run`, the truth `out/truth-STEP.safetensors`, step times `out/times.json`."""
    stage: int
    steps: int
    save_every: int
    options: dict[str, Any] | None
    """Those of the callback; None for a training without it."""
    limit: int | None
    """So many saves are kept."""
    die_at: int | None
    """Rank 1 dies in the middle of writing the save of this step."""
    resume: str | None
    width: int
    """Of the model: the wider, the longer a step takes."""


def note_truth(module: torch.nn.Module, out: Path, step: int) -> None:
    """Write what the engine holds: every master weight by its name. A collective under ZeRO-3."""
    from deepspeed.utils import safe_get_full_fp32_param

    found: dict[str, torch.Tensor] = {}
    for name, parameter in module.named_parameters():
        value = safe_get_full_fp32_param(parameter)
        if value is not None:
            found[name] = value.detach().clone().contiguous()
    if dist.get_rank() == 0:
        save_file(found, out / f"truth-{step}.safetensors")


def die_in_the_middle_of(step: int) -> None:
    """From now on: half of the optimizer file of this step is written, then this process is gone."""
    real = torch.save

    def save(content: object, file: Any, *arguments: Any, **how: Any) -> None:
        path = os.fspath(file) if isinstance(file, (str, os.PathLike)) else ""
        if "optim_states" in path and f"step{step}/" in path:
            real(content, f"{path}.whole", *arguments, **how)
            whole = Path(f"{path}.whole").read_bytes()
            Path(f"{path}.whole").unlink()
            Path(path).write_bytes(whole[: len(whole) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        real(content, file, *arguments, **how)

    torch.save = save


class Times:
    """How long each step took, on rank 0."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._began = 0.0

    def begin(self) -> None:
        self._began = time.perf_counter()

    def end(self) -> None:
        self.seconds.append(time.perf_counter() - self._began)

    def write(self, out: Path) -> None:
        if dist.get_rank() == 0:
            (out / "times.json").write_text(json.dumps(self.seconds))
