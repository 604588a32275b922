"""Conversions by workers of Ray, of Dask and of a pool, and in parts, beside one command: a table in docs/scale.md.

    python tools/bench_machines.py CHECKPOINT … [--dtype fp32 bf16] [--repeat 3] [--saves 1]

It runs in the environment of `tools/envs/clusters.txt` (`.venv/clusters`, which `tools/test_clusters.sh` makes). All
is on this machine: what is measured is what handing out costs, not what more machines gain. Two workers each, one
thread a worker; two parts at a time, and `--finish` after them; one process with `--workers 2` is what they are held
against.

With `--saves N` there is more work for as many bytes on the disk: what is written is the mean of N saves of a run, all
of which are hard links to CHECKPOINT's files. Twenty saves of a model of 317M parameters are about four seconds.

Every conversion is a process of its own (of parts, three). In a round each way runs once, in turn; the first round is
not counted, and there every output is compared with that of one process, byte for byte. Clusters run from the
beginning to the end. The clock starts when Python has imported what it needs, is connected, and each worker has
answered once; what comes before, and Python's end, is told apart as start-up. Quoted are medians, and ratios are
medians of the ratios within a round.

Memory is the most that all processes of a way had at one time: the command, its workers, and the cluster. It is sampled
(`Pss` of `/proc/PID/smaps_rollup`: pages that processes share are divided between them), every tenth of a second.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import platform
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import clear

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parent.parent
WORKERS = 2
LOCAL = "one process, 2 threads"
WARM = "import time, zeroconsolidate.outputs.tasks; time.sleep(1)"
"""What each worker does before the clock: it sleeps, so that nobody does two."""
SECONDS = 120
"""After so long a cluster that has not started, or a process that has not ended, is given up."""


@dataclass(frozen=True, slots=True)
class Run:
    """One conversion."""

    start_up: float
    """Seconds of importing, connecting, and ending."""
    seconds: float
    peak_mib: float


def convert(how: str, checkpoint: str, out: str, dtype: str, saves: int) -> None:
    """What each process runs; prints when the conversion began and ended, on the clock that all processes share."""
    from zeroconsolidate import consolidate, consolidate_part, finish_parts
    from zeroconsolidate.integrations.engines import engine

    with ExitStack() as stack:
        options: dict[str, Any] = {"dtype": dtype}
        if saves > 1:
            options |= {"average": "uniform", "last": saves}
        if how == "local":
            options["workers"] = WORKERS
        elif how.startswith("part"):
            options["workers"] = 1
        elif how != "finish":
            pool = ProcessPoolExecutor(WORKERS) if how == "pool" else engine(how)
            executor = stack.enter_context(pool)
            for done in [executor.submit(exec, WARM) for _ in range(WORKERS)]:
                done.result()
            options["executor"] = executor
        began = time.monotonic()
        if how.startswith("part"):
            consolidate_part(checkpoint, out, how.removeprefix("part "), **options)
        elif how == "finish":
            finish_parts(checkpoint, out, **options)
        else:
            consolidate(checkpoint, out, **options)
        print(json.dumps([began, time.monotonic()]))


class Memory:
    """The most that processes and all that they have started had at one time."""

    def __init__(self, roots: set[int]) -> None:
        self.roots = roots
        self.peak_kib = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def end(self) -> float:
        """MiB."""
        self._ended.set()
        self._thread.join()
        return self.peak_kib / 1024

    def _watch(self) -> None:
        while True:
            self.peak_kib = max(self.peak_kib, sum(map(pss_kib, tree(self.roots))))
            if self._ended.wait(0.1):
                return


def tree(roots: set[int]) -> set[int]:
    """These processes, and those that they have started."""
    found, left = set(), list(roots)
    while left:
        pid = left.pop()
        found.add(pid)
        with suppress(OSError):  # it has ended
            for task in Path(f"/proc/{pid}/task").iterdir():
                left += map(int, (task / "children").read_text().split())
    return found


def pss_kib(pid: int) -> int:
    """A process's pages, its share of those that others have too."""
    with suppress(OSError):  # it has ended
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


@contextmanager
def cluster(*commands: list[str], port: int) -> Iterator[set[int]]:
    """Commands that run meanwhile, the first of which listens at this port. All they have started ends with them."""
    running: list[subprocess.Popen[bytes]] = []
    try:
        deadline = time.monotonic() + SECONDS
        for command in commands:
            running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            while True:
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                if running[0].poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{running[0].args} does not listen at port {port}")
                time.sleep(0.1)
        yield {each.pid for each in running}
    finally:
        for pid in tree({each.pid for each in running}):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for each in running:
            each.wait()


@contextmanager
def clusters() -> Iterator[dict[str, tuple[list[list[str]], set[int]]]]:
    """By label, what runs side by side, one after the other, and the cluster beside it."""
    python = sys.executable
    # Ray listens on all interfaces of the machine: only who has this token, our own processes, may use the cluster.
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    scheduler, head = free_port(), free_port()
    address = f"tcp://127.0.0.1:{scheduler}"
    worker = [python, "-m", "distributed.cli.dask_worker", address, "--no-nanny", "--nthreads", "1", "--no-dashboard",
              "--death-timeout", str(SECONDS)]  # fmt: skip
    with (
        tempfile.TemporaryDirectory(prefix="ray-") as folder,
        cluster(
            [python, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(scheduler),
             "--no-dashboard"], *[worker] * WORKERS, port=scheduler) as dask,
        cluster(
            [str(Path(python).with_name("ray")), "start", "--head", "--block", "--port", str(head), "--num-cpus",
             str(WORKERS), "--include-dashboard", "false", "--disable-usage-stats", "--node-ip-address", "127.0.0.1",
             "--object-store-memory", str(80 << 20), "--temp-dir", folder], port=head) as ray,
    ):  # fmt: skip
        os.environ["RAY_ADDRESS"] = f"127.0.0.1:{head}"
        yield {
            LOCAL: ([["local"]], set()),
            "Ray, 2 workers": ([["ray"]], ray),
            "Dask, 2 workers": ([[f"dask://127.0.0.1:{scheduler}"]], dask),
            "a pool of 2 processes": ([["pool"]], set()),
            "`--part 1/2` beside `--part 2/2`, then `--finish`": ([["part 1/2", "part 2/2"], ["finish"]], set()),
        }


def run_of(checkpoint: Path, saves: int, scratch: Path) -> Path:
    """A run directory with so many saves, hard links all of them; the checkpoint itself if it is one."""
    if saves == 1:
        return checkpoint
    for number in range(1, saves + 1):
        shutil.copytree(checkpoint, scratch / f"run/checkpoint-{number}", copy_function=os.link)
    return scratch / "run"


def measure(steps: list[list[str]], beside: set[int], checkpoint: Path, out: Path, dtype: str, saves: int) -> Run:
    """Run steps one after the other, what is in each at the same time. Raises if one fails."""
    memory = Memory(set(beside))
    began, seconds = time.monotonic(), 0.0
    try:
        for step in steps:
            running = []
            for how in step:
                command = [sys.executable, __file__, str(checkpoint), "--how", how, "--out", str(out), "--dtype", dtype,
                           "--saves", str(saves)]  # fmt: skip
                running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
                memory.roots.add(running[-1].pid)
            spans = []
            for process in running:
                try:
                    said, noise = process.communicate(timeout=SECONDS)
                except subprocess.TimeoutExpired:
                    for pid in tree({each.pid for each in running}):
                        with suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                    raise
                if process.returncode:
                    raise RuntimeError(f"{process.args} failed: {noise[-2000:]}")
                spans.append(json.loads(said.splitlines()[-1]))
                memory.roots.discard(process.pid)
            seconds += max(end for _, end in spans) - min(start for start, _ in spans)
        whole = time.monotonic() - began
    finally:
        peak = memory.end()
    return Run(whole - seconds, seconds, peak)


def refuse_different(out: Path, reference: Path) -> None:
    """Raise if two directories do not hold the same."""
    names = sorted(path.name for path in reference.iterdir())
    _, differ, unread = filecmp.cmpfiles(out, reference, names, shallow=False)
    if differ or unread or sorted(path.name for path in out.iterdir()) != names:
        raise RuntimeError(f"{out} is not what one process writes: {reference}")


def compare(
    checkpoint: Path, dtype: str, repeat: int, saves: int, ways: dict[str, tuple[list[list[str]], set[int]]]
) -> str:
    """A table: rounds of all ways on one checkpoint."""
    runs: dict[str, list[Run]] = {label: [] for label in ways}
    with tempfile.TemporaryDirectory(prefix="scratch-", dir=checkpoint.parent) as name:
        scratch = Path(name)
        reference, out = scratch / "reference", scratch / "out"
        source = run_of(checkpoint, saves, scratch)
        for number in range(repeat + 1):
            for label, (steps, beside) in ways.items():
                clear(scratch, cold=False)
                run = measure(steps, beside, source, out, dtype, saves)
                if number:
                    runs[label].append(run)
                elif label == LOCAL:
                    out.rename(reference)
                else:
                    refuse_different(out, reference)
                print(f"  round {number}  {label:<50} {run.seconds:6.2f} s  {run.peak_mib:6.0f} MiB", file=sys.stderr)
    lines = [
        f"**{checkpoint.name}, {dtype}{f', the mean of {saves} saves' if saves > 1 else ''}**",
        "",
        "| | time | of one process | start-up | peak memory |",
        "|---|--:|--:|--:|--:|",
    ]
    for label, measured in runs.items():
        ratio = statistics.median(run.seconds / one.seconds for run, one in zip(measured, runs[LOCAL], strict=True))
        seconds, start_up, peak = (
            statistics.median(getattr(run, key) for run in measured) for key in ("seconds", "start_up", "peak_mib")
        )
        lines.append(f"| {label} | {seconds:.2f} s | {ratio:.2f} | {start_up:.1f} s | {peak:.0f} MiB |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--saves", type=int, default=1)
    parser.add_argument("--how", help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.how:
        convert(options.how, str(options.checkpoints[0]), options.out, options.dtype[0], options.saves)
        return
    os.environ |= {"PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))}
    packages = ", ".join(f"{name} {version(name)}" for name in ("ray", "distributed", "numpy"))
    print(f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release().split('-')[0]}, "
          f"Python {platform.python_version()}, {packages}; medians of {options.repeat}")  # fmt: skip
    with clusters() as ways:
        for checkpoint in options.checkpoints:
            for dtype in options.dtype:
                print("\n" + compare(checkpoint.resolve(), dtype, options.repeat, options.saves, ways), flush=True)


if __name__ == "__main__":
    main()
