"""The Trainer, accelerate and Lightning resume from universal checkpoints, with the scripts of the docs."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from command import REPOSITORY, environment

from zeroconsolidate import verify

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.live, pytest.mark.long]


@pytest.mark.parametrize(
    ("name", "saved", "other"),
    [("trainer", "run/checkpoint-3", 3), ("accelerate", "run", 1), ("lightning", "run/epoch=0.ckpt", 3)],
)
def test_the_script_goes_on_where_it_was(name: str, saved: str, other: int, tmp_path: Path):
    """The next losses are those of the run that went on: so model, optimizer, scheduler, random states and data are."""
    for module in ("deepspeed", "transformers", "accelerate", "lightning"):
        pytest.importorskip(module)
    command = [sys.executable, "tools/resume_in_programs.py", "--only", name, "--ranks", "2", f"{other}"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)],
        cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        f"{name} on 2: 107 of 107 equal after loading, losses equal",
        f"{name} on {other}: 107 of 107 equal after loading",
    ], done.stdout + done.stderr[-3000:]
    assert done.returncode == 0
    folder = tmp_path / name
    assert verify(folder / "resume", against=folder / saved).problems == ()
