"""Type checkers see every keyword and its type: a training script passes mypy in its strictest form, slips do not."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from command import REPOSITORY, environment

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = """
from dataclasses import dataclass
from pathlib import Path

import torch

import zeroconsolidate
from zeroconsolidate import Report, zero_to_fp32
from zeroconsolidate.options import Group, Options, Roots, option, takes


def after_training(run: Path, out: Path) -> Report:
    if zeroconsolidate.inspect(src=run, tag="last-complete").missing_files:
        report = zeroconsolidate.consolidate(run, out, rescue="zeros", fill=[run / "earlier", "other"])
    else:
        cost = zeroconsolidate.estimate([run, "node1"], dtype="bf16")
        print(cost.output_bytes)
        report = zeroconsolidate.consolidate(
            src=run,
            out=out,
            dtype=torch.bfloat16,
            max_shard_size="5GB",
            base="BAAI/bge-m3",
            include=["encoder.*"],
            rename=str.lower,
            overwrite=True,
            check="all",
            digest="sha256",
            progress=lambda done, total: print(f"{done / total:.0%}"),
        )
    found = zeroconsolidate.verify(out, against=run, base=Path("base"))
    print(found.ok, zeroconsolidate.verify_source(run, tag="global_step1").problems)
    print(zeroconsolidate.open_checkpoint(run)["embed.weight"].load().shape)
    return report


def train(run: str, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> float:
    with zeroconsolidate.open_checkpoint(run, names="hub", rescue=True) as checkpoint:
        loaded = zeroconsolidate.load_into(model, checkpoint, strict=False, dtype=torch.bfloat16, device="cpu")
        part: torch.Tensor = checkpoint["embed.weight"][2:4, ..., 0]
        moments: dict[str, zeroconsolidate.TensorView] = checkpoint.optimizer_state("embed.weight")
        print(loaded.missing, part.shape, moments, checkpoint.step, checkpoint.param_groups)
        for name, tensor in checkpoint.stream("bf16"):
            print(name, tensor.dtype)
    weights: dict[str, torch.Tensor] = zeroconsolidate.state_dict(run, dtype="bf16")
    views: dict[str, zeroconsolidate.TensorView] = zeroconsolidate.state_dict(run, lazy=True)
    either = zeroconsolidate.state_dict(run, lazy=bool(views))
    print(either.keys())
    model.load_state_dict(weights, strict=False)
    print({name: view.numpy().shape for name, view in views.items()})
    old: dict[str, torch.Tensor] = zero_to_fp32.get_fp32_state_dict_from_zero_checkpoint(run)
    model = zero_to_fp32.load_state_dict_from_zero_checkpoint(model, run)
    zero_to_fp32.convert_zero_checkpoint_to_fp32_state_dict(run, "out", max_shard_size=None)
    try:
        zeroconsolidate.convert(run, "model", dtype=torch.float16)
    except (zeroconsolidate.MissingFiles, zeroconsolidate.OutputFailed) as error:
        print(error.files, error.errno, error.filename)
    loss = torch.stack([parameter.sum() for parameter in model.parameters()]).sum()
    optimizer.step()
    return loss.item() + len(old)


zeroconsolidate.load_into("in", "model")  # arg-type
zeroconsolidate.state_dict("in", lazy=True)["a"].shapes  # attr-defined
zeroconsolidate.open_checkpoint("in", nmaes="hub")  # call-arg


zeroconsolidate.consolidate("in", "out", dtpye="bf16")  # call-arg
zeroconsolidate.consolidate("in", "out", ties="both")  # arg-type
zeroconsolidate.consolidate("in", "out", overwrite="no")  # arg-type
zeroconsolidate.consolidate("in", "out", "bf16")  # call-arg
zeroconsolidate.consolidate("in")  # call-arg
zeroconsolidate.inspect("in", dtype="bf16")  # call-arg
zeroconsolidate.verify("out", source="in")  # call-arg
zeroconsolidate.consolidate("in", "out").no_such_field  # attr-defined


@dataclass(frozen=True, kw_only=True)
class Extended(Options):
    paint: str = option("red", "what the model is painted", group=Group.OUTPUT)


@takes(Extended)
def painted(src: Roots, options: Extended) -> str:
    return options.paint


painted("in", paint="blue", dtype="bf16")
painted("in", paint=3)  # arg-type
"""


@pytest.fixture(scope="module")
def slips(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """(code of mypy, the line that it found it in), with the settings of the project."""
    pytest.importorskip("mypy")
    script: Path = tmp_path_factory.mktemp("typed") / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", "--strict", "--no-pretty", str(script)],
        cwd=REPOSITORY,
        env=environment(MYPYPATH=str(REPOSITORY)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    lines = SCRIPT.splitlines()
    return [
        (code, lines[int(number) - 1])
        for number, code in re.findall(r"script\.py:(\d+): error: .*\[([\w-]+)\]$", done.stdout, re.MULTILINE)
    ]


def test_only_slips_are_found_and_all_of_them(slips: list[tuple[str, str]]) -> None:
    marked = [(match[1], line) for line in SCRIPT.splitlines() if (match := re.search(r"  # ([a-z-]+)$", line))]
    assert len(marked) == 12
    assert slips == marked
