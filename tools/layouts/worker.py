"""One rank of one case, under torchrun: train a few steps, save with DeepSpeed, record the live values.

    torchrun --nproc-per-node N -m layouts.worker CASE OUT

Leaves OUT/checkpoint (DeepSpeed's own output) and OUT/live/rank_R.safetensors.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from . import compat

compat.before_import()

import deepspeed  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402

from . import jobs, live  # noqa: E402
from .cases import CASES  # noqa: E402


def main() -> None:
    case, out = CASES[sys.argv[1]], Path(sys.argv[2])
    compat.after_import()
    torch.set_num_threads(1)
    deepspeed.init_distributed("gloo")
    if dist.get_world_size() != case.world:
        sys.exit(f"{case.name} needs {case.world} processes, got {dist.get_world_size()}")
    job = jobs.start(case)
    live.check_unshard(job)
    for _ in range(case.steps):
        job.step()
    job.engine.save_checkpoint(str(out / "checkpoint"), client_state=job.client_state, **case.save)
    live.record(job, out / "live")
    dist.barrier()
    sys.stdout.flush()
    # Some engines leave threads that never join on a machine without a GPU.
    os._exit(0)


if __name__ == "__main__":
    main()
