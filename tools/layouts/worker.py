"""One rank of one case: train a few steps, save with DeepSpeed, record the live values.

Leaves OUT/checkpoint (DeepSpeed's own output) and OUT/live/rank_R.safetensors.
"""

from __future__ import annotations

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


def work(case: Case, rank: int, port: int, out: Path) -> None:
    """Be rank `rank` of `case`; never returns."""
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
    for _ in range(case.steps):
        job.step()
    job.engine.save_checkpoint(str(out / "checkpoint"), client_state=job.client_state, **case.save)
    writer = getattr(job.engine, "checkpoint_engine", None)
    if hasattr(writer, "is_decoupled") and writer.is_decoupled():
        # Else the next step would, or the engine's end.
        job.engine._commit_decoupled_checkpoint()
    live.record(job, out / "live")
    dist.barrier()
    sys.stdout.flush()
    # Some engines leave threads that never join on a machine without a GPU.
    os._exit(0)
