"""Engines resume from what was saved, on other ranks and at other stages, with every bit as it was.

A sample of the table in docs/universal.md, which `tools/resume_universal.py --write` makes.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from command import REPOSITORY, environment
from disks import disk
from folders import contents

from zeroconsolidate import universal, verify

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from disks import Disk

pytestmark = [pytest.mark.live, pytest.mark.long]


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Resumed:
    """One run of the tool, at the stages of what is saved and at each other's, on as many ranks and on one more."""
    pytest.importorskip("deepspeed")
    folder = tmp_path_factory.mktemp("resumed")
    ways = ["universal", "load_into_engine", "ds_to_universal", "shared_steps"]
    return run(folder, ["z2_round_robin", "z3_groups"], ways)


def run(folder: Path, cases: list[str], ways: list[str]) -> Resumed:
    command = [
        sys.executable, "tools/resume_universal.py", "--only", *cases, "--ways", *ways,
        "--stages", "2", "3", "--ranks", "2", "3", "--out", str(folder),
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    cells = re.findall(r"^(\w+) +(\w+) +(stage \d x \d)  (.*)$", done.stdout, re.MULTILINE)
    return Resumed(folder, {tuple(cell): found for *cell, found in cells})


@dataclass(frozen=True)
class Resumed:
    """What was resumed, and what was found."""

    folder: Path
    cells: dict[tuple[str, ...], str]
    """By case, way, and stage and ranks."""

    def by(self, way: str) -> dict[tuple[str, ...], str]:
        return {cell: found for cell, found in self.cells.items() if cell[1] == way}


@pytest.mark.parametrize("way", ["universal", "load_into_engine"])
def test_every_value_and_the_next_losses(way: str, resumed: Resumed):
    found = resumed.by(way)
    assert len(found) == 8
    for (case, _, where), text in found.items():
        is_same = where == f"stage {case[1]} x 2"
        assert text == "72 of 72 equal" + ("  losses apart by 0.0e+00" if is_same else ""), (case, where)


def test_a_round_robin_which_deepspeeds_converter_gets_wrong(resumed: Resumed):
    theirs = [found for (case, *_), found in resumed.by("ds_to_universal").items() if case == "z2_round_robin"]
    assert len(theirs) == 2
    assert all(text.startswith("25 of 72 equal") and text.endswith("WRONG") for text in theirs)
    folder = resumed.folder / "z2_round_robin"
    assert verify(folder / "universal", against=folder / "checkpoint").problems == ()
    assert len(verify(folder / "ds_to_universal", against=folder / "checkpoint").problems) == 36


def test_one_step_for_all_groups_is_deepspeeds_loader_at_fault(resumed: Resumed):
    """At stage 3 fragments equal those of DeepSpeed's converter, which is right here, and values are right after
    loading. They go wrong when each group counts the one step up."""
    text = resumed.cells["z3_groups", "shared_steps", "stage 3 x 2"]
    assert re.fullmatch(r"72 of 72 equal  losses apart by .*  WRONG", text)
    folder = resumed.folder / "z3_groups"
    assert verify(folder / "ds_to_universal", against=folder / "checkpoint").problems == ()


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Disk]:
    """A disk that shares blocks; the test is skipped where none can be mounted."""
    yield from disk("xfs", tmp_path)


def test_engines_load_fragments_that_share_blocks_with_what_was_saved(shared: Disk):
    """Their records are padded so that a tensor begins where it does in the checkpoint."""
    pytest.importorskip("deepspeed")
    found = run(shared.folder, ["z2_wide", "z3_wide"], ["cloned"])
    assert len(found.cells) == 8
    for (case, _, where), text in found.cells.items():
        is_same = where == f"stage {case[1]} x 2"
        assert text == "72 of 72 equal" + ("  losses apart by 0.0e+00" if is_same else ""), (case, where)
    for case in ("z2_wide", "z3_wide"):
        folder = shared.folder / case
        report = universal(folder / "checkpoint", folder / "again", reflink="always")
        assert report.cloned_bytes > report.bytes_written / 4
        loaded = contents(folder / "cloned")
        assert loaded == contents(folder / "again")
        assert any(b"Z" * 65 in data for name, data in loaded.items() if name.endswith("fp32.pt"))
