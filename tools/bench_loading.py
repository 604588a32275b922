"""Measures `load_into` against `torch.load` and `load_state_dict` of the same weights, side by side in one run.

    python tools/bench.py make --dir DIR                      trains the checkpoints with DeepSpeed (needs the extra)
    python tools/bench_loading.py DIR/large_z3 --repeat 5     prints a table

Each measurement is a process of its own, which makes a module with the checkpoint's names and shapes, its parameters
all written once, then loads, and compares every value when the clock has stopped. Time and memory are those of the
loading alone: imports and the module are there before it begins, and opening and reading metadata belong to it. Memory
is what the process has at most above what it had before, by `VmHWM`. In a round each way runs once, in turn; the first
round warms the page cache and is not counted. Quoted are medians. Timings are never asserted, here or in tests.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WAYS = {
    "torch": "`torch.load`, `load_state_dict`",
    "torch mmap": "`torch.load(mmap=True)`, `load_state_dict`",
    "ours": "`load_into`",
    "torch meta": "on meta: `torch.load`, `load_state_dict(assign=True)`",
    "ours meta": "on meta: `load_into`",
    "ours bf16": "into bf16: `load_into`",
    "torch bf16": "into bf16: `torch.load`, `load_state_dict`",
    "slice": "4 KB of an open checkpoint",
}


def module_of(checkpoint: Path, *, device: str, dtype: Any) -> Any:
    """A module with the names and shapes of the checkpoint. Ties are as there."""
    import torch

    import zeroconsolidate

    model, made = torch.nn.Module(), dict[str, Any]()
    for tensor in zeroconsolidate.inspect(checkpoint).tensors:
        *path, own = tensor.name.split(".")
        here = model
        for part in path:
            if part not in dict(here.named_children()):
                here.add_module(part, torch.nn.Module())
            here = here.get_submodule(part)
        owner = tensor.tied_to or tensor.name
        if owner not in made:
            value = torch.empty(tensor.shape, device=device, dtype=dtype)
            made[owner] = torch.nn.Parameter(value if device == "meta" else value.fill_(1))
        here.register_parameter(own, made[owner])
    return model


def memory(field: str) -> int:
    """A field of this process's status, in bytes."""
    text = Path("/proc/self/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith(field)).split()[1]) * 1024


def measure(way: str, checkpoint: Path, weights: Path) -> dict[str, float]:
    """Load once, in this process."""
    import numpy  # noqa: F401, ICN001  (imported before the clock starts)
    import torch

    import zeroconsolidate
    from zeroconsolidate.loading import into  # noqa: F401

    if way == "slice":
        return slice_of(checkpoint)
    dtype = torch.bfloat16 if "bf16" in way else torch.float32
    model = module_of(checkpoint, device="meta" if "meta" in way else "cpu", dtype=dtype)
    Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back
    before, began = memory("VmRSS"), time.perf_counter()
    if way.startswith("ours"):
        zeroconsolidate.load_into(model, checkpoint)
    else:
        model.load_state_dict(torch.load(weights, mmap="mmap" in way), assign="meta" in way)
    seconds, peak = time.perf_counter() - began, memory("VmHWM") - before
    for name, value in torch.load(weights, mmap=True).items():
        if not torch.equal(model.state_dict()[name], value.to(dtype)):
            raise SystemExit(f"{way}: {name} was loaded wrongly")
    return {"seconds": seconds, "bytes": peak}


def slice_of(checkpoint: Path) -> dict[str, float]:
    """1,024 elements in the middle of the largest tensor, the first that is read."""
    import zeroconsolidate

    with zeroconsolidate.open_checkpoint(checkpoint) as opened:
        view = max(opened.values(), key=lambda view: view.numel)
        row = view.shape[0] // 2
        began = time.perf_counter()
        part = view[row, :1024]
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "bytes": part.nbytes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way is not None:
        print(json.dumps(measure(given.way, given.checkpoint, given.weights)))
        return
    with tempfile.TemporaryDirectory(dir=given.checkpoint.parent) as folder:
        weights = Path(folder) / "weights.pt"
        save = "import sys, torch, zeroconsolidate; torch.save(zeroconsolidate.state_dict(sys.argv[1]), sys.argv[2])"
        subprocess.run([sys.executable, "-c", save, str(given.checkpoint), str(weights)], check=True)
        runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for round_ in range(given.repeat + 1):
            for way, found in runs.items():
                command = [sys.executable, __file__, str(given.checkpoint), "--way", way, "--weights", str(weights)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                if round_:
                    found.append(json.loads(done.stdout))
        size = weights.stat().st_size
    print(f"{size / 1e9:.2f} GB of weights; medians of {given.repeat} rounds\n")
    print("| | time | memory on top |\n|---|---|---|")
    for way, what in WAYS.items():
        seconds = statistics.median(run["seconds"] for run in runs[way])
        nbytes = statistics.median(run["bytes"] for run in runs[way])
        shown = f"{seconds:.2f} s" if seconds > 0.1 else f"{1000 * seconds:.2f} ms"
        print(f"| {what} | {shown} | {nbytes / 2**20:,.0f} MiB |" if way != "slice" else f"| {what} | {shown} | |")


if __name__ == "__main__":
    main()
