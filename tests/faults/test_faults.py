"""A sample of the fault-injection rounds; `python tests/faults/rounds.py` runs them all."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from disks import disk

sys.path.insert(0, str(Path(__file__).parent))

from rounds import CLONE_FAULTS, FAULTS, rounds

pytestmark = pytest.mark.long


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
@pytest.mark.parametrize(("verb", "every"), [("convert", 31), ("universal", 61)])
def test_whatever_fails_no_name_is_wrong_and_a_second_run_succeeds(verb: str, every: int) -> None:
    tally = rounds(verb, every=every)
    assert tally["findings"] == []
    assert set(tally["rounds"]) >= set(FAULTS)
    assert {"done", "OutputFailed", "DamagedFile"} <= set(tally["outcomes"])


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_the_same_where_outputs_are_cloned(tmp_path: Path) -> None:
    for mounted in disk("xfs", tmp_path):
        tally = rounds("clone", every=97, directory=str(mounted.folder))
    assert tally["findings"] == []
    assert set(tally["rounds"]) >= set(CLONE_FAULTS)
    assert {"done", "OutputFailed"} <= set(tally["outcomes"])
