"""Live engines and plain loops of torch train on with what a checkpoint holds, as if nothing had happened."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from command import REPOSITORY, environment

pytestmark = [pytest.mark.live, pytest.mark.long]

CHECKS = (
    "plain striped offloaded round_robin warm unequal other_names weights_alone other_training saved_again"
).split()


def said(*command: str) -> str:
    """What a tool prints; it ends with an error if something is not as it was."""
    pytest.importorskip("deepspeed")
    done = subprocess.run(
        [sys.executable, *command],
        cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done.stdout


def test_what_load_into_engine_promises():
    """On three ranks nothing divides evenly, and one may hold nothing of a parameter."""
    assert said("tools/load_into_engine.py").splitlines() == [f"{check} as it was" for check in CHECKS]
    some = ("striped", "round_robin", "other_training")
    assert said("tools/load_into_engine.py", *some, "--ranks", "3").splitlines() == [f"{s} as it was" for s in some]


@pytest.mark.parametrize(("optimizer", "stages"), [("AdamW", "23"), ("SGD", "1")])
def test_a_plain_loop_goes_on_as_deepspeed_does(optimizer: str, stages: str):
    """Bit for bit, on one rank and on two: two numbers are added in either order with the same result."""
    printed = said("tools/train_on_in_torch.py", "--optimizer", optimizer, "--stages", *stages).splitlines()
    assert len(printed) == 8 * len(stages)
    assert all(re.search(r"losses apart by 0\.0e\+00$", line) for line in printed), printed
