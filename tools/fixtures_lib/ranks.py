"""One process a rank, on CPU over gloo.

Ranks are forked from a parent that has already imported torch and deepspeed, so a run costs its training and not
W + 1 imports. That is safe only while the parent has neither run autograd nor started an OpenMP pool, which is what
`prepare` is for: call it before torch is first imported.
"""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.cpu_ranks import free_port, remove_buffers

if TYPE_CHECKING:
    from collections.abc import Callable


def prepare() -> None:
    """Set what torch and deepspeed read from the environment when they are imported."""
    extensions = Path(tempfile.gettempdir()) / f"zeroconsolidate-extensions-{os.getuid()}"
    extensions.mkdir(exist_ok=True)
    _remove_stale_locks(extensions)
    os.environ.update(
        DS_ACCELERATOR="cpu",
        CUDA_VISIBLE_DEVICES="",
        OMP_NUM_THREADS="1",
        TOKENIZERS_PARALLELISM="false",
        HF_HUB_OFFLINE="1",
        TORCH_EXTENSIONS_DIR=str(extensions),
        PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # where pip put ninja
    )


def _remove_stale_locks(extensions: Path) -> None:
    """A build that was killed leaves a file `lock`, for which the next would wait for ever; but while other trainings
    run, one of them may be building."""
    in_use = os.open(extensions / "in_use", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    with suppress(BlockingIOError):
        fcntl.flock(in_use, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for lock in extensions.rglob("lock"):
            lock.unlink(missing_ok=True)
    fcntl.flock(in_use, fcntl.LOCK_SH)  # held by this process and its ranks as long as one of them lives


def import_deepspeed() -> None:
    """Import deepspeed with the two things a plain CPU lacks worked around; neither touches what ZeRO computes."""
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    # The shared-memory collectives are a C++ extension compiled at start-up. gloo does the same work.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # The engine refuses fp16 where the accelerator calls it slow; torch's CPU kernels do have it.
    type(get_accelerator()).is_fp16_supported = lambda self: True


def run(work: Callable[..., None], *args: Any, world_size: int, log: Path, timeout_seconds: float = 900) -> None:
    """Call `work(*args)` in `world_size` processes that see the environment `torchrun` would give them.

    Raises `RuntimeError` with the tail of the log when a rank fails, and `TimeoutError` when they hang; no rank
    outlives the call.
    """
    import torch.multiprocessing as mp

    port = free_port()
    context = mp.start_processes(
        _rank, args=(work, args, world_size, port, log), nprocs=world_size, join=False, start_method="fork"
    )
    deadline = time.monotonic() + timeout_seconds
    try:
        while not context.join(timeout=1):
            if time.monotonic() > deadline:
                msg = f"{world_size} ranks did not finish in {timeout_seconds:.0f} s; their output is in {log}"
                raise TimeoutError(msg)
    except mp.ProcessRaisedException as error:
        msg = f"{error}\n(everything the ranks printed is in {log})"
        raise RuntimeError(msg) from None
    finally:
        for process in context.processes:
            process.kill()
            process.join()
        remove_buffers(port)


def _rank(rank: int, work: Callable[..., None], args: tuple[Any, ...], world_size: int, port: int, log: Path) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    # DeepSpeed and its imports talk a lot, and from C too: move the descriptors, not sys.stdout.
    with log.open("ab") as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
    work(*args)
