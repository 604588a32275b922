"""Train with DeepSpeed here and now, convert, and compare with what the live engine held."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from command import REPOSITORY, environment
from live_values import TORCH, assert_same, consolidate, expected
from safetensors.torch import load_file

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.live

CASES = ["z2_bf16", "z3_bf16", "z2_round_robin_w3", "z3_frozen_tied"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("deepspeed")
    out = tmp_path_factory.mktemp("live")
    command = [sys.executable, "tools/make_fixtures.py", "--out", str(out), "--only", *CASES]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", TORCH)
def test_a_fresh_run(trained: Path, case: str, dtype: str, tmp_path: Path):
    consolidate(trained / case / "checkpoint", tmp_path / "out", dtype=dtype, check="all")
    assert_same(load_file(tmp_path / "out" / "model.safetensors"), expected(trained / case, TORCH[dtype]))


@pytest.mark.parametrize("case", CASES)
def test_the_fresh_run_is_of_the_same_model_as_the_fixture(trained: Path, case: str):
    assert set(load_file(trained / case / "expected.safetensors")) == set(
        load_file(REPOSITORY / "tests" / "fixtures" / case / "expected.safetensors")
    )
    for name, tensor in load_file(trained / case / "expected.safetensors").items():
        assert tensor.float().isfinite().all(), name
