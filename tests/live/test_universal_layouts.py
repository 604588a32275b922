"""Engines of other layouts than plain ZeRO resume from universal checkpoints of the fixtures.

A sample of the second table in docs/universal.md, which `tools/resume_layouts.py --write` makes.
"""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from command import REPOSITORY, environment

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.live, pytest.mark.long]


@pytest.mark.parametrize(
    ("fixture", "engines"),
    [
        ("pp2_z1_untied", ["stage 1, 2 ranks, pp 2", "stage 1, 3 ranks, pp 3"]),
        ("tp2_z3_dp2", ["stage 3, 4 ranks, tp 2", "stage 1, 2 ranks, tp 2"]),
        ("moe_ep2_z2", ["stage 2, 2 ranks, ep 2", "stage 2, 4 ranks, ep 2", "stage 1, 2 ranks, ep 2"]),
        ("z0_fp16_fused", ["stage 2, 2 ranks"]),
    ],
)
def test_every_value_is_what_the_engine_that_saved_held(fixture: str, engines: list[str], tmp_path: Path):
    pytest.importorskip("deepspeed")
    command = [sys.executable, "tools/resume_layouts.py", "--only", fixture, "--out", str(tmp_path)]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=900, check=False
    )
    rows = re.findall(r"^\w+ +(.*?) +(\d+) of (\d+) equal(.*)$", done.stdout, re.MULTILINE)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert [engine for engine, *_ in rows] == engines
    assert all(equal == of and int(of) > 40 for _, equal, of, _ in rows)
    alike = {said for engine, _, _, said in rows if "losses" in said}
    assert alike <= {"  losses apart by 0.0e+00"}
