"""Run directories that a Trainer could have written, made of the oracle's checkpoints."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import torch
import zero_model
from safetensors.torch import load_file

if TYPE_CHECKING:
    from pathlib import Path


def trained(step: int, stage: int = 2) -> zero_model.Run:
    """A run at this step; its values differ from those at another."""
    run = zero_model.example(stage, step=step)
    for group in run.groups:
        for name in group:
            group[name] = group[name] + float(step)
    return run


def save(run: Path, step: int, stage: int = 2) -> Path:
    """`run/checkpoint-<step>`, with all that a Trainer needs to resume."""
    folder = run / f"checkpoint-{step}"
    zero_model.save(trained(step, stage), folder, f"global_step{step}")
    (folder / "trainer_state.json").write_text("{}")
    (folder / "scheduler.pt").touch()
    for rank in range(2):
        (folder / f"rng_state_{rank}.pth").touch()
    return folder


def age(folder: Path, seconds: int) -> None:
    """Set the times of all files below."""
    for path in folder.rglob("*"):
        os.utime(path, (1_700_000_000 + seconds, 1_700_000_000 + seconds))


def is_model_of(model: Path, step: int, stage: int = 2) -> bool:
    """Whether a model has the values of the run at this step, bit for bit, and nothing is staged in it."""
    found, truth = load_file(model / "model.safetensors"), trained(step, stage).truth
    assert found.keys() == truth.keys()
    return all(torch.equal(found[name], truth[name]) for name in truth) and not (model / ".zeroconsolidate").exists()


def hide(path: Path, elsewhere: Path) -> Path:
    """Move a file or folder away, as if it had not been written yet; returns where it is."""
    elsewhere.mkdir(parents=True, exist_ok=True)
    return shutil.move(path, elsewhere / path.name)
