"""Memory is bounded and does not grow with the model: measured, on checkpoints made of holes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from command import python

if TYPE_CHECKING:
    from pathlib import Path

MEASURE = """
import json, sys
from zeroconsolidate.cli import main
code = main(sys.argv[1:])
with open("/proc/self/status") as status:
    peak = next(line for line in status if line.startswith("VmHWM")).split()[1]
print(json.dumps([code, int(peak) * 1024]))
"""
"""VmHWM is this process's own; what `getrusage` tells of a child includes the parent it was forked from."""

MIB = 1 << 20


def sparse_checkpoint(root: Path, stage: int, *, numel: int) -> Path:
    """Two ranks and one parameter of `numel` elements, in files whose tensors are holes."""
    folder = root / "global_step1"
    folder.mkdir(parents=True)
    common = {"global_steps": 1, "dp_world_size": 2, "mp_world_size": 1, "ds_version": "0.19.8", "buffer_names": []}
    common |= {"shared_params": {}, "frozen_param_shapes": {}, "frozen_param_fragments": {}}
    shapes = [{"weight": (numel // 1024, 1024), "bias": (6,)}]
    half = (numel + 8) // 2
    key = "fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups"
    with torch.serialization.skip_data():  # nor does torch.empty touch memory: nothing is there but sizes
        for rank in range(2):
            placeholder = torch.empty(0, dtype=torch.bfloat16)
            flat = torch.empty(numel // 2 + 3 if stage == 3 else half if rank == 0 else numel + 6 - half)
            state = {key: [flat], "zero_stage": stage, "partition_count": 2 if stage == 3 else [2]}
            torch.save({"optimizer_state_dict": state}, folder / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
            if stage == 3 or rank == 0:
                module = {"weight": placeholder, "bias": placeholder}
                if stage != 3:
                    module = {name: torch.empty(shape, dtype=torch.bfloat16) for name, shape in shapes[0].items()}
                name = f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt" if stage == 3 else "mp_rank_00_model_states.pt"
                torch.save(common | {"module": module, "param_shapes": shapes}, folder / name)
    (root / "latest").write_text("global_step1")
    return root


def peak(*arguments: object) -> int:
    done = python(MEASURE, *arguments)
    assert done.returncode == 0, done.stderr
    code, peak_bytes = json.loads(done.stdout.splitlines()[-1])
    assert code == 0
    return peak_bytes


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize(("dtype", "bound"), [("fp32", 64 * MIB), ("bf16", 128 * MIB)])
def test_memory_does_not_grow_with_the_model(tmp_path: Path, stage: int, dtype: str, bound: int):
    peaks = []
    for size_mib in (48, 192):
        root = sparse_checkpoint(tmp_path / f"{size_mib}", stage, numel=size_mib * MIB // 4)
        peaks.append(peak("convert", root, tmp_path / f"out{size_mib}", "--dtype", dtype, "--quiet"))
        assert (tmp_path / f"out{size_mib}" / "model.safetensors").stat().st_size > size_mib * MIB // 2
        (tmp_path / f"out{size_mib}" / "model.safetensors").unlink()
    assert peaks[1] <= bound
    assert abs(peaks[1] - peaks[0]) < 4 * MIB


def test_a_full_check_does_not_grow_either(tmp_path: Path):
    root = sparse_checkpoint(tmp_path / "run", 2, numel=192 * MIB // 4)
    assert peak("convert", root, tmp_path / "out", "--check", "--quiet") <= 128 * MIB


def test_inspect_reads_no_tensors(tmp_path: Path):
    root = sparse_checkpoint(tmp_path / "run", 3, numel=1 << 30)
    assert peak("inspect", root, "--tensors") <= 40 * MIB
