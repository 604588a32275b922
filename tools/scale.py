"""What conversions of 7B to 1T parameters cost, from 8 to 1,024 ranks: the table in docs/scale.md.

    python tools/scale.py [--models 70B] [--ranks 512] [--stage 3] [--keep DIR] [--gbps 2]

The checkpoints are sparse: metadata as DeepSpeed writes it, holes in place of tensors, so that they take no room. Ranks
of one node share a file by hard links, as in bench_planning.py. Each is planned in a process of its own, by the code
that converts, which says what would be read and written; time and memory are measured there. Nothing is copied.

Money is that of requests to an object store which asks 0.40 dollars for a million reads and 5 for a million writes:
what S3's standard class costs in most regions. Each extent of a file is counted as a read of its own, 8 MiB at most; a
write is a part of 64 MiB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch

DEVICES = 8
READ_BYTES, WRITE_BYTES = 8 << 20, 64 << 20
DOLLARS_A_READ, DOLLARS_A_WRITE = 0.4e-6, 5e-6
METADATA_READS = 3
"""Of a file: its end, its directory, its pickle."""


@dataclass(frozen=True)
class Shape:
    """A decoder of Llama's kind."""

    layers: int
    hidden: int
    inner: int
    keys: int
    """Width of keys and values."""
    vocabulary: int


MODELS = {
    "7B": Shape(32, 4096, 11008, 4096, 32000),
    "70B": Shape(80, 8192, 28672, 1024, 128256),
    "405B": Shape(126, 16384, 53248, 1024, 128256),
    "1T": Shape(128, 25600, 83968, 1024, 128256),
}

MEASURE = """
import json, sys, time
began = time.perf_counter()
from zeroconsolidate.opening.opened import open_to_convert
from zeroconsolidate.options import Options
from zeroconsolidate.outputs.planned import plan_weights
from zeroconsolidate.outputs.weights import workers_for
from zeroconsolidate.run.execute import BLOCK_BYTES
options = Options(names="stored", dtype=sys.argv[2])
opened = open_to_convert(sys.argv[1], options)
plan = plan_weights(opened, options).plan
cost = plan.cost(BLOCK_BYTES, workers_for(plan, options))
seconds, cpu = time.perf_counter() - began, time.process_time()
# VmHWM and not ru_maxrss, which counts the process that started this one.
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
from zeroconsolidate.outputs.sharing import means_of
from zeroconsolidate.outputs.spread import tasks_of
from zeroconsolidate.outputs.tasks import encoded
read = int(sys.argv[3])
extents = [copy.nbytes for tensor in plan.tensors() for copy in tensor.recipe.copies()]
print(json.dumps({
    "seconds": seconds, "cpu": cpu, "mib": peak / 1024, "input": cost.input_bytes, "output": cost.output_bytes,
    "memory": cost.peak_memory_bytes / 2**20, "tensors": cost.tensors, "files": cost.files, "extents": len(extents),
    "reads": sum(-(-each // read) for each in extents),
    "plan": len(encoded(plan.all_files, means_of(plan, options))[1]), "tasks": len(tasks_of(plan.all_files)),
}))
"""


def shapes_of(shape: Shape) -> OrderedDict[str, torch.Size]:
    """The parameters of the model, by name."""
    hidden, inner, keys = shape.hidden, shape.inner, shape.keys
    found = OrderedDict({"model.embed_tokens.weight": torch.Size([shape.vocabulary, hidden])})
    for layer in range(shape.layers):
        sizes = {
            "self_attn.q_proj": [hidden, hidden],
            "self_attn.k_proj": [keys, hidden],
            "self_attn.v_proj": [keys, hidden],
            "self_attn.o_proj": [hidden, hidden],
            "mlp.gate_proj": [inner, hidden],
            "mlp.up_proj": [inner, hidden],
            "mlp.down_proj": [hidden, inner],
            "input_layernorm": [hidden],
            "post_attention_layernorm": [hidden],
        }
        for name, size in sizes.items():
            found[f"model.layers.{layer}.{name}.weight"] = torch.Size(size)
    found["model.norm.weight"] = torch.Size([hidden])
    found["lm_head.weight"] = torch.Size([shape.vocabulary, hidden])
    return found


def write(root: Path, shapes: OrderedDict[str, torch.Size], *, stage: int, ranks: int) -> None:
    """A sparse checkpoint of a bf16 run."""
    folder = root / "global_step1"
    folder.mkdir(parents=True)
    numels = [size.numel() for size in shapes.values()]
    flat = sum(-(-n // ranks) for n in numels) if stage == 3 else -(-sum(numels) // (2 * ranks)) * 2
    holes = root / "holes"
    biggest = 4 * max(flat, sum(numels) if stage < 3 else 0)
    holes.touch()
    os.truncate(holes, biggest)

    def empty(size: int | torch.Size, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """A tensor over a hole of a file: no memory is asked for."""
        size = torch.Size([size]) if isinstance(size, int) else size
        storage = torch.UntypedStorage.from_file(str(holes), shared=True, nbytes=size.numel() * dtype.itemsize)
        return torch.empty(0, dtype=dtype).set_(storage, 0, size)

    common = {"buffer_names": [], "param_shapes": [shapes], "frozen_param_shapes": {}, "frozen_param_fragments": {}}
    common |= {"shared_params": {}, "global_steps": 1, "dp_world_size": ranks, "mp_world_size": 1, "ds_config": {}}
    optimizer = "bf16_zero_pp_rank_{}_mp_rank_00_optim_states.pt"
    first = "zero_pp_rank_{}_mp_rank_00_model_states.pt" if stage == 3 else "mp_rank_{:02d}_model_states.pt"
    with torch.serialization.skip_data():
        for variant in range(min(DEVICES, ranks)):
            if stage == 3 or not variant:
                module = OrderedDict(
                    (name, torch.empty(0, dtype=torch.bfloat16) if stage == 3 else empty(size, torch.bfloat16))
                    for name, size in shapes.items()
                )
                model = {**common, "ds_version": "0.19.8", "module": module, "device": f"cuda:{variant}"}
                torch.save(model, folder / first.format(variant))
            moments = {key: empty(flat) for key in ("exp_avg", "exp_avg_sq")}
            base = {"state": {0: {"step": torch.tensor(1.0), **moments}}, "param_groups": [{"lr": 1e-3, "params": [0]}]}
            masters = "fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups"
            state = {
                "zero_stage": stage,
                "partition_count": ranks if stage == 3 else [ranks],
                "optimizer_state_dict" if stage == 3 else "base_optimizer_state": base,
                masters: [empty(flat)],
            }
            torch.save({"optimizer_state_dict": state, "ds_version": "0.19.8"}, folder / optimizer.format(variant))
    for rank in range(DEVICES, ranks):
        for pattern in [optimizer, *([first] if stage == 3 else [])]:
            os.link(folder / pattern.format(rank % DEVICES), folder / pattern.format(rank))
    holes.unlink()
    (root / "latest").write_text("global_step1")


def measure(root: Path, dtype: str) -> dict[str, float]:
    """Plan the checkpoint in a fresh process."""
    command = [sys.executable, "-c", MEASURE, str(root), dtype, str(READ_BYTES)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def row(model: str, ranks: int, stage: int, got: dict[str, float], gbps: float) -> str:
    """A row of the table."""
    files = ranks * 2 if stage == 3 else ranks + 1
    reads = got["reads"] + files * METADATA_READS
    writes = -(-got["output"] // WRITE_BYTES)
    dollars = reads * DOLLARS_A_READ + writes * DOLLARS_A_WRITE
    minutes = (got["input"] + got["output"]) / (gbps * 1e9) / 60
    cells = [
        model, f"{ranks:,}", f"{got['input'] / 1e12:.2f} TB", f"{got['output'] / 1e12:.2f} TB", f"{files:,}",
        f"{got['seconds']:.1f} s", f"{got['mib']:.0f} MiB", f"{got['plan'] / 1e6:.2f} MB",
        f"{got['tasks']:,}", f"{got['extents']:,}", f"{reads / 1e6:.2f} M", f"{dollars:.2f} $", f"{minutes:,.0f} min",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


HEAD = (
    "| parameters | ranks | read | written | files | planned in | memory | plan | tasks | extents "
    "| requests | money | at {gbps:g} GB/s |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 64, 512, 1024])
    parser.add_argument("--stage", type=int, choices=[1, 2, 3], default=3)
    parser.add_argument("--dtype", default="fp32")
    parser.add_argument("--gbps", type=float, default=2.0, help="gigabytes a second of the disk or network, both ways")
    parser.add_argument("--keep", type=Path, help="make the checkpoints here and leave them")
    args = parser.parse_args()
    print(HEAD.format(gbps=args.gbps))
    with tempfile.TemporaryDirectory() as temporary:
        for model in args.models:
            for ranks in args.ranks:
                root = (args.keep or Path(temporary)) / f"{model}_z{args.stage}_{ranks}"
                if not root.exists():
                    write(root, shapes_of(MODELS[model]), stage=args.stage, ranks=ranks)
                print(row(model, ranks, args.stage, measure(root, args.dtype), args.gbps), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
