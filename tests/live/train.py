"""Train a fixture's case afresh, in processes of its own: the test process never imports deepspeed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from conftest import Fixture

MAKE = Path(__file__).parents[2] / "tools" / "make_fixtures.py"


def train(case: str, out: Path, *, seed: int, timeout_seconds: float = 900) -> Fixture:
    """Train `case` with weights and data that `seed` decides and return what was saved under `out`.

    Raises `subprocess.CalledProcessError` when the training fails; its stderr has the traceback.
    """
    command = [sys.executable, MAKE, "--only", case, "--out", out, "--seed", str(seed)]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=timeout_seconds)
    return Fixture(out / case)
