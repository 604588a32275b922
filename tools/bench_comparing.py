"""How long `compare` takes beside `cmp`, and how much memory: the table in docs/compare.md.

    python tools/bench_comparing.py --dir D [--millions 317] [--repeat 3]

Two models of the shape of a Llama are made in D, of 4 bytes an element. The files are in the page cache.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import time
from multiprocessing import Process
from pathlib import Path
from subprocess import DEVNULL, Popen

OURS = [sys.executable, "-m", "zeroconsolidate", "compare"]
WIDTH = 1024


def make(folder: Path, millions: int) -> None:
    """`a`, its twin, one in which every element differs, and `a` in 16 bits."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    tensors = {"model.embed_tokens.weight": torch.randn(32_000, WIDTH), "lm_head.weight": torch.randn(32_000, WIDTH)}
    layers = max((millions * 10**6 - 2 * 32_000 * WIDTH) // (12 * WIDTH * WIDTH), 1)
    for n in range(layers):
        for part in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"):
            tensors[f"model.layers.{n}.{part}.weight"] = torch.randn(WIDTH, WIDTH)
        for part, shape in (("up_proj", (4 * WIDTH, WIDTH)), ("down_proj", (WIDTH, 4 * WIDTH))):
            tensors[f"model.layers.{n}.mlp.{part}.weight"] = torch.randn(*shape)
    for name in ("a", "twin", "changed", "bf16"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "a" / "model.safetensors")
    shutil.copy(folder / "a" / "model.safetensors", folder / "twin")
    save_file({name: tensor.bfloat16() for name, tensor in tensors.items()}, folder / "bf16" / "model.safetensors")
    for tensor in tensors.values():
        tensor.mul_(1.001)
    save_file(tensors, folder / "changed" / "model.safetensors")


def measure(command: list[str]) -> tuple[float, float]:
    """Seconds, and MiB at the most. The exit code says only whether there is a difference."""
    began = time.perf_counter()
    process = Popen(command, stdout=DEVNULL, stderr=DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1):
        raise RuntimeError(f"{command} ended with {process.returncode}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--millions", type=int, default=317, help="parameters, in millions")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    if not (options.dir / "changed").exists():
        # In a process of its own: a peak counts what the process that starts a command has had.
        making = Process(target=make, args=(options.dir, options.millions))
        making.start()
        making.join()
    a = options.dir / "a"
    commands = {
        "`cmp` of two equal files": ["cmp", str(a / "model.safetensors"), str(options.dir / "twin/model.safetensors")],
        "`compare`, equal": [*OURS, str(a), str(options.dir / "twin")],
        "`compare`, fp32 against its bf16": [*OURS, str(a), str(options.dir / "bf16")],
        "`compare`, every element differs": [*OURS, str(a), str(options.dir / "changed")],
    }
    runs: dict[str, list[tuple[float, float]]] = {label: [] for label in commands}
    for number in range(options.repeat + 1):
        for label, command in commands.items():
            found = measure(command)
            if number:
                runs[label].append(found)
    size = (a / "model.safetensors").stat().st_size
    print(f"Two models of {size / 1e9:.2f} GB each, medians of {options.repeat}\n")
    print("| command | time | of `cmp` | peak memory |\n|---|--:|--:|--:|")
    first = runs["`cmp` of two equal files"]
    for label, measured in runs.items():
        ratio = statistics.median(one[0] / other[0] for one, other in zip(measured, first, strict=True))
        wall, peak = (statistics.median(run[n] for run in measured) for n in (0, 1))
        print(f"| {label} | {wall:.2f} s | {ratio:.1f} | {peak:.0f} MiB |")


if __name__ == "__main__":
    main()
