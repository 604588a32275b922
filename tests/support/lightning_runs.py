"""A checkpoint as Lightning's DeepSpeedStrategy saves it: a fixture, with what Lightning keeps beside the model."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import torch
from fixtures import FIXTURES

if TYPE_CHECKING:
    from pathlib import Path

KEPT = {
    "epoch": 3,
    "global_step": 2,
    "pytorch-lightning_version": "2.6.6",
    "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 4, "completed": 3}}}},
    "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.25), "best_model_path": "a"}},
    "lr_schedulers": [],
    "hparams_name": "kwargs",
    "hyper_parameters": {"layers": 2, "rates": [0.1, 0.2], "betas": (0.9, 0.95), "name": None},
}
"""As `Trainer.dump_checkpoint` makes it."""


def saved(case: str, folder: Path, *, kept: dict[str, Any] | None = None, prefix: str = "") -> Path:
    """The fixture's files under Lightning's tag `checkpoint`. `prefix`: in front of every name."""
    shutil.copytree(next((FIXTURES / case / "checkpoint").glob("global_step*")), folder / "checkpoint")
    (folder / "latest").write_text("checkpoint")
    for path in (folder / "checkpoint").glob("*model_states.pt"):
        content = torch.load(path, weights_only=False)
        content |= KEPT if kept is None else kept
        if prefix:
            _rename(content, prefix)
        torch.save(content, path)
    return folder


def _rename(content: dict[str, Any], prefix: str) -> None:
    def renamed(mapping: Any) -> Any:
        return type(mapping)((f"{prefix}{name}", value) for name, value in mapping.items())

    content["module"] = renamed(content["module"])
    content["buffer_names"] = [f"{prefix}{name}" for name in content["buffer_names"]]
    content["param_shapes"] = [renamed(group) for group in content["param_shapes"]]
    content["shared_params"] = {f"{prefix}{a}": f"{prefix}{b}" for a, b in content["shared_params"].items()}
