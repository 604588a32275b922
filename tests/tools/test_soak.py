"""`tools/soak.py`: it goes on where it was, counts what was tried, and stops at what fails; release notes."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest
import release_notes
import soak
from command import REPOSITORY, environment

from zeroconsolidate import __version__

if TYPE_CHECKING:
    from pathlib import Path


def test_kinds_take_turns_wherever_it_begins() -> None:
    straight = [(number, piece.kind) for number, piece in itertools.islice(soak.pieces(None, 0), 12)]
    later = [(number, piece.kind) for number, piece in itertools.islice(soak.pieces(None, 5), 7)]
    assert straight[5:] == later
    assert [kind for _, kind in straight[:4]] == ["kills", "fuzz", "kills", "faults"]


@pytest.mark.parametrize("only", ["kills", "faults", None])
def test_seeds_differ_and_both_verbs_are_tried(only: str | None) -> None:
    pieces = [piece for _, piece in itertools.islice(soak.pieces(only, 0), 24) if piece.kind != "fuzz"]
    kills = [piece.command for piece in pieces if piece.kind == "kills"]
    assert len({*map(tuple, kills)}) == len(kills)
    for kind in {piece.kind for piece in pieces}:
        verbs = Counter(piece.command[piece.command.index("--verb") + 1] for piece in pieces if piece.kind == kind)
        assert verbs["convert"] == verbs["universal"] > 0


def test_every_target_is_fuzzed() -> None:
    assert len({piece.command[2] for _, piece in itertools.islice(soak.pieces("fuzz", 0), 40)}) == len(soak.TARGETS)


def test_what_is_counted() -> None:
    said = "round 3\n20 rounds, 131 kills: 7 before any sync, 120 while copying, 4 after the end\n"
    assert soak.counted("kills", said) == {"conversions": 20, "kills": 131}
    assert soak.counted("fuzz", "x\nstat::number_of_executed_units: 4096\n") == {"inputs": 4096}
    assert soak.counted("faults", said) == {}


def test_a_torn_line_does_not_count(tmp_path: Path) -> None:
    whole = {"number": 0, "kind": "kills", "ok": True, "seconds": 3600.0, "conversions": 20, "kills": 131}
    (tmp_path / "soak.jsonl").write_text(json.dumps(whole) + '\n{"number": 1, "ki')
    assert soak.read(tmp_path / "soak.jsonl") == [whole]
    done = subprocess.run(
        [sys.executable, "tools/soak.py", "--report", "--dir", tmp_path],
        cwd=REPOSITORY, capture_output=True, text=True, check=True, env=environment(),
    )  # fmt: skip
    assert done.stdout == (
        "1.00 hours in 1 pieces (1 of kills, 0 of fuzz, 0 of faults): 20 conversions killed 131 times, 0 inputs; "
        "failed: none\n"
    )


def test_a_piece_that_fails_leaves_its_output(tmp_path: Path) -> None:
    line = soak.run(
        7, soak.Piece("kills", [sys.executable, "-c", "import sys; print('differs'); sys.exit(1)"]), tmp_path
    )
    assert line["ok"] is False
    assert (tmp_path / "failed-7.log").read_text() == "differs\n"
    assert "failed: 7" in soak.summary([line])


class TestReleaseNotes:
    TEXT = "# Changelog\n\n## [Unreleased]\n\n- new\n\n## [0.2.0] - 2026-11-01\n\n### Added\n\n- b\n\n## [0.1.0]\n"

    def test_a_section(self) -> None:
        assert release_notes.section(self.TEXT, "0.2.0") == "### Added\n\n- b"
        assert release_notes.section(self.TEXT, "Unreleased") == "- new"

    @pytest.mark.parametrize(("version", "said"), [("0.1.0", "is empty"), ("9", "only of Unreleased, 0.2.0, 0.1.0")])
    def test_one_that_is_not_there(self, version: str, said: str) -> None:
        with pytest.raises(LookupError, match=said):
            release_notes.section(self.TEXT, version)

    def test_what_is_not_released_has_notes(self) -> None:
        assert release_notes.section(release_notes.CHANGELOG.read_text(), release_notes.UNRELEASED)


def test_the_version_is_in_one_place() -> None:
    """What states it imports it: no other file of the package or of its metadata assigns it."""
    others = [
        REPOSITORY / "pyproject.toml",
        REPOSITORY / "CITATION.cff",
        *(REPOSITORY / "zeroconsolidate").rglob("*.py"),
    ]
    stating = re.compile(rf"^\s*(?:__version__|version) *[=:] *[\"']?{re.escape(__version__)}", re.MULTILINE)
    assert [path.name for path in others if stating.search(path.read_text())] == ["_version.py"]
