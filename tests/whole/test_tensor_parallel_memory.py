"""A tensor-parallel merge along the inner dimension needs a block for each open file, whatever the tensor's size."""

from __future__ import annotations

import runpy
from typing import TYPE_CHECKING

from command import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

TOOL = runpy.run_path(str(REPOSITORY / "tools" / "bench_tensor_parallel.py"))
INTERPRETER_MIB = 64
"""What Python, numpy and this library take before a tensor is read."""
BLOCK_MIB, FILES = 1, 5


def test_one_block_for_each_open_file(tmp_path: Path):
    peaks = []
    for mib in (256, 1024):
        root = tmp_path / f"{mib}"
        TOOL["write"](root, dim=1, mib=mib, holes=True)
        out = tmp_path / f"out{mib}"
        peaks.append(TOOL["measure"](root, out)["mib"])
        assert (out / "model.safetensors").stat().st_size > mib * 2**20
        (out / "model.safetensors").unlink()
    assert peaks[1] <= INTERPRETER_MIB + FILES * BLOCK_MIB
    assert abs(peaks[1] - peaks[0]) <= FILES * BLOCK_MIB
