"""Run a training script on several CPU ranks, and keep what its engine held when it saved, when it had loaded, and all
losses."""

from __future__ import annotations

import os
import runpy
import sys
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from fixtures_lib import ranks
from shared.cpu_ranks import convince_accelerate

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Held = dict[str, dict[str, Any]]
"""By parameter and state, as `fixtures_lib.resume.held` says."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a run left behind."""

    saved: Held | None
    """What the engine held at its first save."""
    loaded: Held | None
    """What it held when it had loaded a checkpoint."""
    losses: list[list[float]]
    """Of every step, by rank."""


def import_program(name: str) -> None:
    """Import what a script needs, once for all of its ranks, with what a plain CPU lacks worked around."""
    convince_accelerate()
    import_module(name)
    if name == "lightning":
        _convince_lightning()
    if name == "transformers":
        import_module("transformers.trainer")


def run(script: str, arguments: Sequence[str], folder: Path, *, world_size: int) -> Record:
    """Run the script in `folder`, as a process a rank."""
    (folder / "script.py").write_text(script)
    ranks.run(_rank, list(arguments), folder, world_size=world_size, log=folder / "ranks.log")
    by_rank = [torch.load(folder / f"record-{rank}.pt", weights_only=True) for rank in range(world_size)]
    return Record(
        saved=by_rank[0]["saved"], loaded=by_rank[0]["loaded"], losses=[of_rank["losses"] for of_rank in by_rank]
    )


def compare(saved: Held | None, loaded: Held | None) -> tuple[int, int]:
    """How many values of the one are in the other, bit for bit."""
    from .cells import equal_values

    if saved is None or loaded is None:
        msg = "RuntimeError: the script has not saved, or not loaded"
        raise RuntimeError(msg)
    return equal_values(saved, loaded)


def _rank(arguments: list[str], folder: Path) -> None:
    from deepspeed import DeepSpeedEngine
    from fixtures_lib import resume

    record: dict[str, Any] = {"saved": None, "loaded": None, "losses": []}
    save, load, backward = DeepSpeedEngine.save_checkpoint, DeepSpeedEngine.load_checkpoint, DeepSpeedEngine.backward

    def saving(engine: Any, *args: Any, **kwargs: Any) -> Any:
        if record["saved"] is None:
            record["saved"] = resume.held(engine)
        return save(engine, *args, **kwargs)

    def loading(engine: Any, *args: Any, **kwargs: Any) -> Any:
        found = load(engine, *args, **kwargs)
        record["loaded"] = resume.held(engine)
        return found

    def going_back(engine: Any, loss: Any, *args: Any, **kwargs: Any) -> Any:
        record["losses"].append(float(loss.detach()))
        return backward(engine, loss, *args, **kwargs)

    DeepSpeedEngine.save_checkpoint, DeepSpeedEngine.load_checkpoint = saving, loading
    DeepSpeedEngine.backward = going_back
    os.chdir(folder)
    sys.argv = ["script.py", *arguments]
    runpy.run_path("script.py", run_name="__main__")
    torch.save(record, folder / f"record-{os.environ['RANK']}.pt")


def _convince_lightning() -> None:
    """Let Lightning start DeepSpeed without a GPU: it asks for the index of each rank's device."""
    from lightning.pytorch.accelerators import CPUAccelerator
    from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy

    DeepSpeedStrategy.setup_environment = DDPStrategy.setup_environment
    CPUAccelerator.get_parallel_devices = staticmethod(lambda count: [torch.device("cpu", n) for n in range(count)])
