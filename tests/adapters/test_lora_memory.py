"""A merge holds one block of rows and the factors of one module, whatever the model's size: measured, and enforced."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest
import torch
from command import python
from safetensors import safe_open
from zero_model import Run, save

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20
RANK, ALPHA = 8, 12
SLACK = 24 * MIB * max(1, torch.get_num_threads())
"""malloc's own, which keeps memory for each thread."""

MERGE = """
import json, resource, sys

def status(key):
    with open("/proc/self/status") as lines:
        return int(next(line for line in lines if line.startswith(key)).split()[1]) * 1024

import torch
import zeroconsolidate.outputs.adapted, zeroconsolidate.outputs.recomputed.recompute  # code is none of it
from zeroconsolidate.cli import main

torch.ones(512, 512) @ torch.ones(512, 512)  # begins torch's threads, whose stacks are torch's
limit, size, *arguments = sys.argv[1:]
size = int(size)
if limit == "data":  # so many bytes beyond what the interpreter and torch hold
    size += status("VmData")
if limit != "none":
    resource.setrlimit(resource.RLIMIT_DATA if limit == "data" else resource.RLIMIT_AS, (size, size))
before = status("VmRSS")
code = main(arguments)
print(json.dumps([code, size, status("VmHWM") - before]))
"""


def run(
    source: Path, base: Path, out: Path, *, limit: str, size: int = 0, workers: int = 1, seconds: float = 120
) -> tuple[int, int]:
    """(the limit in bytes, the growth of resident memory in bytes)."""
    arguments = ["convert", source, out, "--lora", "merge", "--base", base, "--dtype", "bf16", "--quiet"]
    arguments += ["--workers", workers]
    done = python(MERGE, limit, size, *arguments, seconds=seconds)
    assert done.returncode == 0, done.stderr
    code, limited, grown = json.loads(done.stdout.splitlines()[-1])
    assert code == 0, done.stderr
    return limited, grown


def name(index: int) -> str:
    return f"model.layers.{index}.mlp.up_proj.weight"


def sparse_base(folder: Path, *, count: int, shape: tuple[int, int]) -> Path:
    """A model of `count` matrices in bfloat16, all zeros, in a file that is a hole."""
    folder.mkdir()
    nbytes = 2 * shape[0] * shape[1]
    header = json.dumps(
        {
            name(i): {"dtype": "BF16", "shape": shape, "data_offsets": [i * nbytes, (i + 1) * nbytes]}
            for i in range(count)
        }
    ).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + count * nbytes)
    (folder / "config.json").write_text("{}")
    return folder


def adapter_run(root: Path, *, count: int, shape: tuple[int, int]) -> dict[str, torch.Tensor]:
    """A LoRA run on every matrix; returns its masters."""
    generator = torch.Generator().manual_seed(3)
    masters = {}
    for index in range(count):
        module = "base_model.model." + name(index).removesuffix(".weight")
        masters[f"{module}.lora_A.default.weight"] = torch.randn(RANK, shape[1], generator=generator)
        masters[f"{module}.lora_B.default.weight"] = torch.randn(shape[0], RANK, generator=generator)
    save(Run(stage=3, world_size=2, groups=[masters]), root)
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": ["up_proj"]}
    (root / "adapter_config.json").write_text(json.dumps(config))
    return masters


def check(out: Path, masters: dict[str, torch.Tensor], index: int) -> None:
    module = "base_model.model." + name(index).removesuffix(".weight")
    a, b = (masters[f"{module}.lora_{x}.default.weight"] for x in "AB")
    with safe_open(out / "model.safetensors", "pt") as file:
        rows = file.get_slice(name(index))[1000:1300]
    assert torch.equal(rows, ((b @ a) * (ALPHA / RANK)).bfloat16()[1000:1300])


@pytest.mark.parametrize("workers", [1, 2])
def test_memory_does_not_grow_with_the_model(tmp_path: Path, workers: int):
    shape, grown = (4096, 2048), []
    for count in (2, 16):
        masters = adapter_run(tmp_path / f"in{count}", count=count, shape=shape)
        base = sparse_base(tmp_path / f"base{count}", count=count, shape=shape)
        out = tmp_path / f"out{count}"
        grown.append(run(tmp_path / f"in{count}", base, out, limit="none", workers=workers)[1])
        check(out, masters, count - 1)
    model_bytes = 16 * 2 * shape[0] * shape[1]
    assert grown[1] < grown[0] + workers * SLACK
    assert grown[1] < workers * 60 * MIB < model_bytes // 2


def test_memory_does_not_grow_with_the_module(tmp_path: Path):
    grown = []
    for rows in (4096, 32768):
        shape = (rows, 2048)
        adapter_run(tmp_path / f"in{rows}", count=1, shape=shape)
        base = sparse_base(tmp_path / f"base{rows}", count=1, shape=shape)
        grown.append(run(tmp_path / f"in{rows}", base, tmp_path / f"out{rows}", limit="none")[1])
    assert grown[1] < grown[0] + SLACK  # B grew by 0.9 MiB, the weight by 112


def test_a_model_twenty_times_larger_than_the_memory_beyond_the_interpreter(tmp_path: Path):
    shape, budget = (4096, 4096), 48 * MIB
    count = -(-20 * budget // (2 * shape[0] * shape[1]))
    masters = adapter_run(tmp_path / "in", count=count, shape=shape)
    base = sparse_base(tmp_path / "base", count=count, shape=shape)
    run(tmp_path / "in", base, tmp_path / "out", limit="data", size=budget)
    assert (tmp_path / "out" / "model.safetensors").stat().st_size > 20 * budget
    check(tmp_path / "out", masters, count // 2)
    shutil.rmtree(tmp_path / "out")


@pytest.fixture
def emptied(tmp_path: Path) -> Iterator[Path]:
    """A folder of which nothing is left, however the test ends: pytest keeps those of the last runs."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.heavy
def test_a_model_twenty_times_larger_than_the_process_may_be(emptied: Path):
    """RLIMIT_AS counts everything the process maps, torch's own libraries included. Writes 14 GB."""
    shape, limit = (16384, 8192), 680 * MIB
    count = -(-20 * limit // (2 * shape[0] * shape[1]))
    if shutil.disk_usage(emptied).free < 2 * 20 * limit:
        pytest.skip("the disk has too little room")
    masters = adapter_run(emptied / "in", count=count, shape=shape)
    base = sparse_base(emptied / "base", count=count, shape=shape)
    run(emptied / "in", base, emptied / "out", limit="all", size=limit, seconds=1800)
    assert (emptied / "out" / "model.safetensors").stat().st_size > 20 * limit
    check(emptied / "out", masters, count // 2)
