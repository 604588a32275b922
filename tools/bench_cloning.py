"""Conversions on a file system that shares blocks, side by side with `cp`: tables in docs/cloning.md.

    python tools/bench_cloning.py run CHECKPOINT … [--repeat 5]    of checkpoints that `bench.py make` made, moved there
    python tools/bench_cloning.py run CHECKPOINT … --dtype bf16    the same in 16 bits
    python tools/bench_cloning.py growth --dir DIR                 of 1 GB and of 10 GB, made in DIR
    python tools/bench_cloning.py workers CHECKPOINT … [--cold]    copies and casts with 1 and 2 threads, on any disk

Everything lies on the file system of the checkpoint, the output and what is copied too. As in `bench.py`, every command
is a process of its own, each runs once in a round, the first round is not counted, and quoted are medians. With
`--cold` the page cache is emptied before each command (needs root). "New" is what the file system has less of free
space afterwards: file systems go on freeing for a while after a file is gone, so that is waited for.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import OrderedDict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import Run, measure

LAYERS = {"1 GB": 16, "10 GB": 160}
"""Of 4096 x 4096, which are 67 MB in fp32."""
RANKS = 4
COPY, CLONE = "`cp` and sync of the output", "`cp --reflink=always` and sync"
OURS = "zeroconsolidate"


def commands(checkpoint: Path, scratch: Path, dtype: str) -> dict[str, list[str]]:
    """What is compared, by label."""
    ours = [sys.executable, "-m", "zeroconsolidate", "convert", str(checkpoint), str(scratch / "out"), "--quiet",
            "--dtype", dtype]  # fmt: skip
    copy = f"{scratch}/reference {scratch}/out && sync -f {scratch}/out"
    return {
        COPY: ["sh", "-c", f"cp -r --reflink=never {copy}"],
        CLONE: ["sh", "-c", f"cp -r --reflink=always {copy}"],
        OURS: ours,
        f"{OURS} --reflink never": [*ours, "--reflink", "never"],
    }


def with_workers(checkpoint: Path, scratch: Path, _dtype: str) -> dict[str, list[str]]:
    """What is compared, by label: nothing is cloned."""
    ours = [sys.executable, "-m", "zeroconsolidate", "convert", str(checkpoint), str(scratch / "out"), "--quiet",
            "--reflink", "never"]  # fmt: skip
    found = {COPY: ["sh", "-c", f"cp -r --reflink=never {scratch}/reference {scratch}/out && sync -f {scratch}/out"]}
    for dtype in ("fp32", "bf16"):
        for files, more in (("one file", []), ("shards", ["--max-shard-size", "256MB"])):
            for workers in ("1", "2"):
                label = f"{dtype}, {files}, {workers} thread{'s' * (workers != '1')}"
                found[label] = [*ours, "--dtype", dtype, *more, "--workers", workers]
    return found


def clear(scratch: Path, *, cold: bool = False) -> None:
    """Take away the last output and let the disk finish."""
    shutil.rmtree(scratch / "out", ignore_errors=True)
    subprocess.run(["sync", "-f", str(scratch)], check=True)
    if cold:
        Path("/proc/sys/vm/drop_caches").write_text("1")


def free_bytes(scratch: Path) -> int:
    """The free bytes, when they have been the same for a second."""
    before, since = -1, 0.0
    while True:
        subprocess.run(["sync", "-f", str(scratch)], check=True)
        status = os.statvfs(scratch)
        free = status.f_bfree * status.f_frsize
        if free != before:
            before, since = free, time.monotonic()
        elif time.monotonic() - since > 1:
            return free
        time.sleep(0.1)


def compare(verb: str, checkpoint: Path, repeat: int, *, dtype: str, cold: bool) -> str:
    """A table: rounds of all commands on one checkpoint."""
    scratch = checkpoint.parent / "scratch"
    compared = {"run": commands, "workers": with_workers}[verb](checkpoint, scratch, dtype)
    scratch.mkdir(exist_ok=True)
    shutil.rmtree(scratch / "reference", ignore_errors=True)
    reference = commands(checkpoint, scratch, dtype)[OURS]
    reference[reference.index(str(scratch / "out"))] = str(scratch / "reference")
    subprocess.run(reference, check=True, stderr=subprocess.DEVNULL)
    runs: dict[str, list[Run]] = {}
    new: dict[str, list[int]] = {}
    for number in range(repeat + 1):
        for label, command in compared.items():
            clear(scratch, cold=cold)
            counted = number > 0 and verb == "run"
            before = free_bytes(scratch) if counted else 0
            run = measure(command)
            if number:
                runs.setdefault(label, []).append(run)
            if counted:
                new.setdefault(label, []).append(before - free_bytes(scratch))
            print(f"  round {number}  {label:<40} {run.wall:6.2f} s", file=sys.stderr)
    shutil.rmtree(scratch)
    lines = [f"**{checkpoint}**, {dtype}{', page cache emptied' if cold else ''}", "",
             "| | time | of the copy | CPU time | peak memory |" + " new on the disk |" * bool(new),
             "|---|--:|--:|--:|--:|" + "--:|" * bool(new)]  # fmt: skip
    for label, measured in runs.items():
        ratio = statistics.median(run.wall / copy.wall for run, copy in zip(measured, runs[COPY], strict=True))
        wall, cpu, peak = (
            statistics.median(getattr(run, key) for run in measured) for key in ("wall", "cpu", "peak_mib")
        )
        room = f" {statistics.median(new[label]) / 1e6:.1f} MB |" if new else ""
        lines.append(f"| {label} | {wall:.2f} s | {ratio:.3f} | {cpu:.2f} s | {peak:.0f} MiB |{room}")
    return "\n".join(lines)


def make(root: Path, layers: int) -> None:
    """A checkpoint of stage 3 whose masters are zeros, which are written like any other bytes."""
    import torch

    folder = root / "global_step1"
    if (root / "latest").exists():
        return
    folder.mkdir(parents=True)
    shapes = OrderedDict((f"layers.{layer}.weight", torch.Size([4096, 4096])) for layer in range(layers))
    model = {
        "module": OrderedDict((name, torch.empty(0, dtype=torch.bfloat16)) for name in shapes),
        "buffer_names": [], "param_shapes": [shapes], "frozen_param_shapes": None, "frozen_param_fragments": None,
        "shared_params": {}, "global_steps": 1, "dp_world_size": RANKS, "mp_world_size": 1, "ds_config": {},
        "ds_version": "0.19.8",
    }  # fmt: skip
    numel = layers * 4096 * 4096 // RANKS
    zeros = folder / "zeros"
    with zeros.open("wb") as file:
        file.truncate(numel * 4)
    flat = torch.from_file(str(zeros), shared=False, size=numel)  # mapped: no memory is taken
    for rank in range(RANKS):
        torch.save(model, folder / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt")
        state = {"zero_stage": 3, "partition_count": RANKS, "ds_version": "0.19.8", "fp32_flat_groups": [flat],
                 "optimizer_state_dict": {"state": {}, "param_groups": []}}  # fmt: skip
        torch.save({"optimizer_state_dict": state, "ds_config": {}, "ds_version": "0.19.8"},
                   folder / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")  # fmt: skip
    zeros.unlink()
    (root / "latest").write_text("global_step1")


def growth(directory: Path, repeat: int) -> str:
    """The time for ten times the bytes."""
    runs: dict[str, list[Run]] = {size: [] for size in LAYERS}
    for size, layers in LAYERS.items():
        make(directory / size.replace(" ", ""), layers)
    for number in range(repeat + 1):
        for size in LAYERS:
            clear(directory)
            run = measure([sys.executable, "-m", "zeroconsolidate", "convert", str(directory / size.replace(" ", "")),
                           str(directory / "out"), "--names", "stored", "--reflink", "always", "--quiet"])  # fmt: skip
            if number:
                runs[size].append(run)
            print(f"  round {number}  {size:<6} {run.wall:6.2f} s", file=sys.stderr)
    clear(directory)
    lines = ["| cloned | time | CPU time |", "|---|--:|--:|"]
    for size, measured in runs.items():
        wall, cpu = (statistics.median(getattr(run, key) for run in measured) for key in ("wall", "cpu"))
        lines.append(f"| {size} | {wall:.2f} s | {cpu:.2f} s |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("run", "growth", "workers"))
    parser.add_argument("checkpoints", type=Path, nargs="*")
    parser.add_argument("--dir", type=Path)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32", help="of what `run` converts")
    parser.add_argument("--cold", action="store_true", help="empty the page cache before each command")
    options = parser.parse_args()
    if options.verb == "growth":
        print(growth(options.dir, options.repeat))
    for checkpoint in options.checkpoints:
        print("\n" + compare(options.verb, checkpoint, options.repeat, dtype=options.dtype, cold=options.cold))


if __name__ == "__main__":
    main()
