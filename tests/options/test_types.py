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
from zeroconsolidate import Report
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
    assert len(marked) == 9
    assert slips == marked
