"""One rank of one case: train a few steps, save with DeepSpeed, record the live values; or load, record, and go on.

Leaves OUT/checkpoint (DeepSpeed's own output) and OUT/live/rank_R.safetensors, or the latter and OUT/went_on_R.json.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from . import compat

compat.before_import()

import deepspeed  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402

from . import jobs, live  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path

    from .case import Case


MORE_STEPS = 2
"""That are taken after a checkpoint is loaded."""


def work(case: Case, rank: int, port: int, out: Path, load: Path | None) -> None:
    """Be rank `rank` of `case`; never returns. `load`: a checkpoint to go on from, None to train and save one."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(case.world),
        "LOCAL_WORLD_SIZE": str(case.world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        # Set by DeepSpeed's own launcher and read by its configurable writers.
        "CROSS_RANK": "0",
        "CROSS_SIZE": "1",
        "LOCAL_SIZE": str(case.world),
    }
    # Whatever a job names by relative path (swap files) stays beside its output.
    os.chdir(out)
    compat.after_import()
    torch.set_num_threads(1)
    deepspeed.init_distributed("gloo")
    job = jobs.start(case)
    live.check_unshard(job)
    if load is None:
        train_and_save(job, out)
    else:
        job.engine.load_checkpoint(str(load))
        if job.engine.load_universal_checkpoint():
            give_each_its_own_step(job)
    live.record(job, out / "live")
    if load is not None:
        go_on(job, out)
    dist.barrier()
    sys.stdout.flush()
    # Some engines leave threads that never join on a machine without a GPU.
    os._exit(0)


def train_and_save(job: jobs.Job, out: Path) -> None:
    for _ in range(job.case.steps):
        job.step()
    job.engine.save_checkpoint(str(out / "checkpoint"), client_state=job.client_state, **job.case.save)
    writer = getattr(job.engine, "checkpoint_engine", None)
    if hasattr(writer, "is_decoupled") and writer.is_decoupled():
        # Else the next step would commit, and the writer's process would outlive this one.
        job.engine._commit_decoupled_checkpoint()
        writer.cleanup()


def give_each_its_own_step(job: jobs.Job) -> None:
    """Undo what DeepSpeed's loader does at stage 3: all flat groups share one tensor, and each counts it up."""
    base = getattr(job.engine.optimizer, "optimizer", job.engine.optimizer)
    for state in base.state.values():
        if isinstance(state.get("step"), torch.Tensor):
            state["step"] = state["step"].clone()


def go_on(job: jobs.Job, out: Path) -> None:
    """Write the counters, and the losses of further steps."""
    base = getattr(job.engine.optimizer, "optimizer", job.engine.optimizer)
    counted = sorted({float(state["step"]) for state in base.state.values() if "step" in state})
    if job.engine.global_steps != job.case.steps:
        raise RuntimeError(f"expected step {job.case.steps}, got {job.engine.global_steps}")
    facts = {"steps": counted, "losses": [job.step() for _ in range(MORE_STEPS)]}
    (out / f"went_on_{dist.get_rank()}.json").write_text(json.dumps(facts))
