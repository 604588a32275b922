"""Four ranks train, one is lost, three resume from what is rescued, and the losses go on as they should."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import pytest
from command import REPOSITORY, environment

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.live, pytest.mark.long]

PAGE, FIGURE = "incomplete-checkpoints.md", "losses-after-a-rescue.svg"


def rows(page: str) -> list[str]:
    """First cells of the table of losses."""
    table = page.partition("<!-- losses -->")[2].partition("<!-- /losses -->")[0]
    return [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| ")]


@pytest.mark.parametrize(("stage", "apart"), [(2, 0.01), (3, 0.1)])
def test_losses_go_on(stage: int, apart: float, tmp_path: Path):
    """Whole, three ranks go on as four; with a quarter of the optimizer from ten steps before, nearly so."""
    pytest.importorskip("deepspeed")
    (tmp_path / "docs").mkdir()
    shutil.copy(REPOSITORY / "docs" / PAGE, tmp_path / "docs")
    command = [sys.executable, "tools/resume_rescued.py", "--stages", str(stage), "--out", str(tmp_path / "runs")]
    done = subprocess.run(
        [*command, "--write", str(tmp_path / "docs")],
        cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    found = json.loads((tmp_path / "runs" / "losses.json").read_text())[str(stage)]
    undisturbed = found.pop("undisturbed")
    assert {name: len(losses) for name, losses in found.items()} == dict.fromkeys(("whole", "filled", "zeros"), 40)
    distance = {
        name: [abs(loss - other) for loss, other in zip(losses, undisturbed, strict=True)]
        for name, losses in found.items()
    }
    assert max(distance["whole"]) < 0.005
    assert max(distance["filled"]) < apart
    assert undisturbed[0] - undisturbed[-1] > 0.2  # it does learn something
    assert found["filled"][-1] < undisturbed[0] - 0.2
    # Without what the optimizer kept, the training is another one.
    assert max(distance["zeros"]) > max(distance["whole"]) * 2
    wanted = rows((REPOSITORY / "docs" / PAGE).read_text())
    assert set(rows((tmp_path / "docs" / PAGE).read_text())) == {row for row in wanted if "stage" not in row} | {
        f"| stage {stage}: step"
    }
    lines = ET.fromstring((tmp_path / "docs" / FIGURE).read_text()).findall(".//{*}polyline")
    assert len(lines) == 2 * 4


def test_the_page_shows_both_stages():
    page = (REPOSITORY / "docs" / PAGE).read_text()
    assert [row for row in rows(page) if "stage" in row] == ["| stage 2: step", "| stage 3: step"]
    lines = ET.fromstring((REPOSITORY / "docs" / FIGURE).read_text()).findall(".//{*}polyline")
    assert len(lines) == 4 * 4
