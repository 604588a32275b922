"""What it costs to plan a checkpoint of many ranks: seconds and memory for 64, 256 and 1,024 ranks, stages 2 and 3.

    python tools/bench_planning.py [--ranks 64 256 1024] [--parameters 2000] [--keep DIR]

The files are made by `torch.save` with holes in place of tensors. Ranks of one node share a file by hard links, as
they would differ only in values; eight variants stand for the eight devices of a node, whose names are in the pickles.
Planning is everything `convert` does before it copies: finding files, reading pickles, comparing ranks, laying out.
Each measurement is a process of its own; the time is its CPU time, so that a busy machine does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import OrderedDict
from pathlib import Path

import torch

DEVICES = 8
MEASURE = """
import json, sys, time
from zeroconsolidate.api.converting import estimate
began = time.process_time()
cost = estimate(sys.argv[1], names="stored")
seconds = time.process_time() - began
# VmHWM and not ru_maxrss, which counts the process that started this one.
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"seconds": seconds, "tensors": cost.tensors, "mib": peak / 1024}))
"""


def shapes_of(parameters: int) -> OrderedDict[str, torch.Size]:
    """Matrices and vectors by turns, none of them of a size that many ranks divide."""
    return OrderedDict(
        (f"layers.{i // 2}.{'norm' if i % 2 else 'proj'}.weight", torch.Size([1031] if i % 2 else [1031, 1029]))
        for i in range(parameters)
    )


def write(root: Path, *, stage: int, ranks: int, parameters: int) -> None:
    """A checkpoint of `ranks` ranks under `root`."""
    folder = root / "global_step1"
    folder.mkdir(parents=True)
    (root / "latest").write_text("global_step1")
    shapes = shapes_of(parameters)
    numels = [shape.numel() for shape in shapes.values()]
    flat = sum(-(-n // ranks) for n in numels) if stage == 3 else -(-sum(numels) // (2 * ranks)) * 2
    common = {"buffer_names": [], "param_shapes": [shapes], "frozen_param_shapes": {}, "frozen_param_fragments": {}}
    common |= {"shared_params": {}, "global_steps": 1, "dp_world_size": ranks, "mp_world_size": 1, "ds_config": {}}
    with torch.serialization.skip_data():
        for variant in range(min(DEVICES, ranks)):
            module = OrderedDict(
                (name, torch.empty(0 if stage == 3 else shape, dtype=torch.bfloat16)) for name, shape in shapes.items()
            )
            model = {**common, "ds_version": "0.19.8", "module": module, "device": f"cuda:{variant}"}
            moments = {key: torch.empty(flat) for key in ("exp_avg", "exp_avg_sq")}
            base = {"state": {0: {"step": torch.tensor(1.0), **moments}}, "param_groups": [{"lr": 1e-3, "params": [0]}]}
            state = (
                {"zero_stage": 3, "partition_count": ranks, "optimizer_state_dict": base}
                | {"fp32_flat_groups": [torch.empty(flat)]}
                if stage == 3
                else {"zero_stage": stage, "partition_count": [ranks], "base_optimizer_state": base}
                | {"single_partition_of_fp32_groups": [torch.empty(flat)]}
            )
            first = "zero_pp_rank_{}_mp_rank_00_model_states.pt" if stage == 3 else "mp_rank_{:02d}_model_states.pt"
            if stage == 3 or not variant:
                torch.save(model, folder / first.format(variant))
            optimizer = "bf16_zero_pp_rank_{}_mp_rank_00_optim_states.pt"
            torch.save({"optimizer_state_dict": state, "ds_version": "0.19.8"}, folder / optimizer.format(variant))
    for rank in range(DEVICES, ranks):
        for pattern in [optimizer, *([first] if stage == 3 else [])]:
            os.link(folder / pattern.format(rank % DEVICES), folder / pattern.format(rank))


def measure(root: Path) -> dict[str, float]:
    """Plan the checkpoint in a fresh process."""
    done = subprocess.run([sys.executable, "-c", MEASURE, str(root)], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--parameters", type=int, default=2000)
    parser.add_argument("--keep", type=Path, help="make the checkpoints here and leave them")
    args = parser.parse_args()
    print("| stage | ranks | seconds | s per 1,000 ranks | MiB |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        for stage in (2, 3):
            for ranks in args.ranks:
                root = (args.keep or Path(temporary)) / f"z{stage}_{ranks}"
                if not root.exists():
                    write(root, stage=stage, ranks=ranks, parameters=args.parameters)
                got = measure(root)
                each = 1000 * got["seconds"] / ranks
                print(f"| {stage} | {ranks} | {got['seconds']:.2f} | {each:.2f} | {got['mib']:.0f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
