"""A tensor split over 4 tensor-parallel ranks, joined along the inner dimension and along the outer one: time, memory.

    python tools/bench_tensor_parallel.py [--mib 1024] [--rounds 3]

Along dimension 0 the merge is a plain copy of four extents; along dimension 1 every row is made of four runs. The
files hold real bytes; each conversion is a process of its own, the two by turns, and the medians are printed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

RANKS = 4
COLUMNS = 4096
MEASURE = """
import json, sys, time
from zeroconsolidate import consolidate
began = time.monotonic()
consolidate(sys.argv[1], sys.argv[2], names="stored", check="none", overwrite=True)
seconds = time.monotonic() - began
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"seconds": seconds, "mib": peak / 1024}))
"""


def write(root: Path, *, dim: int, mib: int, holes: bool) -> None:
    """One weight of `mib` MiB, cut along `dim`, saved by AutoTP's rules at stage 1; as holes it takes no disk."""
    folder = root / "global_step1"
    folder.mkdir(parents=True)
    (root / "latest").write_text("global_step1")
    rows = mib * 2**20 // 4 // COLUMNS
    shape = (rows // RANKS, COLUMNS) if dim == 0 else (rows, COLUMNS // RANKS)
    info = {"universal_checkpoint_version": 0.4}
    info |= {"parameter_with_row_parallelism_patterns": ["^weight$"] if dim else []}
    for rank in range(RANKS):
        model = {
            "module": {"weight": torch.empty(shape, dtype=torch.bfloat16)},
            "buffer_names": [],
            "param_shapes": [{"weight": shape}],
            "global_steps": 1,
            "dp_world_size": 1,
            "mp_world_size": RANKS,
            "checkpoint_parallel_dimensions": {"pp_degree": 1, "tp_degree": RANKS},
            "universal_checkpoint_info": info,
            "ds_version": "0.19.8",
        }
        flat = torch.empty(shape[0] * shape[1])
        state = {"zero_stage": 1, "single_partition_of_fp32_groups": [flat], "partition_count": [1]}
        optimizer = folder / f"bf16_zero_pp_rank_0_mp_rank_{rank:02d}_optim_states.pt"
        with torch.serialization.skip_data():
            torch.save(model, folder / f"mp_rank_{rank:02d}_model_states.pt")
        if holes:
            with torch.serialization.skip_data():
                torch.save({"optimizer_state_dict": state}, optimizer)
        else:
            flat.normal_(generator=torch.Generator().manual_seed(rank))
            torch.save({"optimizer_state_dict": state}, optimizer)


def measure(root: Path, out: Path) -> dict[str, float]:
    """Convert in a fresh process."""
    command = [sys.executable, "-c", MEASURE, str(root), str(out)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        found: dict[int, list[dict[str, float]]] = {0: [], 1: []}
        for dim in found:
            write(Path(temporary) / f"dim{dim}", dim=dim, mib=args.mib, holes=False)
        for _ in range(args.rounds):
            for dim, results in found.items():
                out = Path(temporary) / "out"
                results.append(measure(Path(temporary) / f"dim{dim}", out))
                shutil.rmtree(out)
        seconds = {dim: statistics.median(r["seconds"] for r in results) for dim, results in found.items()}
        print("| joined along | seconds | MiB |\n|---|---|---|")
        for dim, results in found.items():
            print(f"| dimension {dim} | {seconds[dim]:.2f} | {max(r['mib'] for r in results):.0f} |")
        print(f"\nthe inner dimension takes {seconds[1] / seconds[0]:.2f} times as long")
    return 0


if __name__ == "__main__":
    sys.exit(main())
