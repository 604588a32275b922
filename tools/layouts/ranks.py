"""Run the ranks of a case as forks of one process, which has paid for importing DeepSpeed once.

    python -m layouts.ranks CASE OUT SECONDS

is the form for another release of DeepSpeed, found through PYTHONPATH.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from shared.cpu_ranks import free_port, remove_buffers

if TYPE_CHECKING:
    from .case import Case


def run(case: Case, out: Path, timeout: float, *, load: Path | None = None) -> None:
    """Train `case` into `out`, or with `load` go on from that checkpoint; raises RuntimeError with the end of the
    failing rank's output."""
    from . import worker  # noqa: F401 - imported before the forks, for all of them

    port = free_port()
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=be_rank, args=(case, rank, port, out, load)) for rank in range(case.world)]
    for process in ranks:
        process.start()
    deadline = time.monotonic() + timeout
    try:
        # One dead rank leaves the others waiting in a collective.
        while any(process.exitcode is None for process in ranks):
            if any(process.exitcode for process in ranks) or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        time.sleep(0.2)
    finally:
        codes = [process.exitcode for process in ranks]
        for process in ranks:
            process.kill()
            process.join()
        remove_buffers(port)
    if any(code != 0 for code in codes):
        rank = next((r for r, code in enumerate(codes) if code), 0)
        raise RuntimeError(f"exit codes {codes} (None: still running); rank {rank} said:\n{tail(out, rank)}")


def be_rank(case: Case, rank: int, port: int, out: Path, load: Path | None) -> None:
    with (out / f"rank_{rank}.log").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    from .worker import work

    work(case, rank, port, out, load)


def tail(out: Path, rank: int) -> str:
    lines = (out / f"rank_{rank}.log").read_text(errors="replace").splitlines()
    return "\n".join(line for line in lines[-30:] if not re.match(r"\[\d{4}-", line))


if __name__ == "__main__":
    from .cases import CASES

    try:
        run(CASES[sys.argv[1]], Path(sys.argv[2]), float(sys.argv[3]))
    except RuntimeError as error:
        sys.exit(str(error))
