"""Decisions, notes and warnings can be routed with `logging`; nobody who does not ask for it sees any of it."""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from command import python
from fixtures import FIXTURES

import zeroconsolidate

if TYPE_CHECKING:
    from zeroconsolidate.outputs.report import Report

LORA = FIXTURES / "models" / "lora_z2" / "checkpoint"
BASE = FIXTURES / "models" / "_bases" / "llama"

RUN = """
import sys
from zeroconsolidate.cli import main
sys.exit(main(sys.argv[1:]))
"""
LOGGING = "import logging\n"
ROUTED = "import logging\nlogging.basicConfig(level=logging.INFO, format='%(levelname)s %(name)s %(message)s')\n"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """One that a loader will miss something of."""
    return Path(shutil.copytree(FIXTURES / "z3_bf16" / "checkpoint", tmp_path / "checkpoint"))


def test_decisions_and_notes_are_told_and_warnings_warn(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    caplog.set_level(logging.INFO, "zeroconsolidate")
    report = zeroconsolidate.consolidate(LORA, tmp_path / "merged", lora="merge", base=BASE)
    assert len(report.notes) > 1
    assert caplog.record_tuples == expected(report)


def test_what_a_loader_will_miss_warns(caplog: pytest.LogCaptureFixture, checkpoint: Path, tmp_path: Path) -> None:
    report = zeroconsolidate.consolidate(checkpoint, tmp_path / "model")
    assert report.missing
    assert caplog.record_tuples == [record for record in expected(report) if record[1] == logging.WARNING]


def expected(report: Report) -> list[tuple[str, int, str]]:
    told = [(logging.INFO, text) for text in (report.names, *report.notes)]
    told += [(logging.WARNING, text) for text in (*report.missing, *report.warnings)]
    return [("zeroconsolidate", level, f"{report.output}: {text}") for level, text in told]


def test_steps_are_told_to_who_debugs(caplog: pytest.LogCaptureFixture, checkpoint: Path, tmp_path: Path) -> None:
    caplog.set_level(logging.DEBUG, "zeroconsolidate")
    begun: list[str] = []
    zeroconsolidate.consolidate(checkpoint, tmp_path / "model", status=begun.append)
    told = [text for _, level, text in caplog.record_tuples if level == logging.DEBUG]
    assert told == begun
    assert told[0] == "reading metadata"
    assert "copying" in told


def test_what_verify_finds_wrong_warns(caplog: pytest.LogCaptureFixture, checkpoint: Path, tmp_path: Path) -> None:
    caplog.set_level(logging.INFO, "zeroconsolidate")
    zeroconsolidate.consolidate(checkpoint, tmp_path / "model")
    caplog.clear()
    found = zeroconsolidate.verify(tmp_path / "model", against=FIXTURES / "z3_fp32" / "checkpoint")
    assert found.problems
    warned = [text for _, level, text in caplog.record_tuples if level == logging.WARNING]
    assert warned == [f"{found.subject}: {text}" for text in found.problems]
    informed = [text for _, level, text in caplog.record_tuples if level == logging.INFO]
    assert informed == [f"{found.subject}: {text}" for text in (*found.checks, *found.notes)]


def test_names_that_only_one_side_has(caplog: pytest.LogCaptureFixture, checkpoint: Path) -> None:
    caplog.set_level(logging.INFO, "zeroconsolidate")
    module = torch.nn.ModuleDict({"embed": torch.nn.Embedding(13, 7), "other": torch.nn.Linear(1, 1)})
    zeroconsolidate.load_into(module, checkpoint, strict=False)
    missing, unexpected = (text for _, level, text in caplog.record_tuples if level == logging.WARNING)
    assert missing == "2 names not in the checkpoint: other.weight, other.bias"
    assert re.match(r"\d+ names not in the module: ", unexpected)


def test_what_was_removed_is_told(caplog: pytest.LogCaptureFixture, checkpoint: Path, tmp_path: Path) -> None:
    for step in (2, 4, 6):
        shutil.copytree(checkpoint, tmp_path / "run" / f"checkpoint_{step}")
    zeroconsolidate.consolidate(tmp_path / "run/checkpoint_2", tmp_path / "run-models/checkpoint_2", names="stored")
    caplog.set_level(logging.INFO, "zeroconsolidate")
    pruning = zeroconsolidate.prune(tmp_path / "run", keep=1, yes=True, models=tmp_path / "run-models")
    removed = [save for save in pruning.saves if save.removes != "nothing"]
    told = [text for _, _, text in caplog.record_tuples if ": removed " in text]
    assert told == [f"{pruning.root}: {save.name}: removed {save.removes}; {save.reason}" for save in removed]
    assert removed


def test_the_command_prints_nothing_twice(checkpoint: Path, tmp_path: Path) -> None:
    """With and without `logging` in the process, which prints warnings that no handler takes."""
    printed = []
    for number, before in enumerate(("", LOGGING)):
        done = python(before + RUN, "convert", checkpoint, tmp_path / str(number))
        assert done.returncode == 0
        assert done.stdout
        assert done.stderr.count("config.json") == 1  # the warning, once
        printed.append(re.sub(r"\d", "0", done.stdout + done.stderr))
    assert printed[0] == printed[1]


def test_who_sets_logging_up_gets_the_records(checkpoint: Path, tmp_path: Path) -> None:
    done = python(ROUTED + RUN, "convert", "--quiet", checkpoint, tmp_path / "model")
    assert (done.returncode, done.stdout) == (0, "")
    levels = [line.split()[:2] for line in done.stderr.splitlines()]
    assert ["INFO", "zeroconsolidate"] in levels
    assert ["WARNING", "zeroconsolidate"] in levels


def test_a_conversion_does_not_import_logging(checkpoint: Path, tmp_path: Path) -> None:
    """9 ms, for those who have no use for it."""
    code = "import sys, zeroconsolidate as z; z.consolidate(*sys.argv[1:]); print('logging' in sys.modules)"
    assert python(code, checkpoint, tmp_path / "model").stdout == "False\n"


def test_names_that_others_made_do_not_steer_who_reads_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = shutil.copytree(FIXTURES / "z2_bf16/checkpoint", tmp_path / "in")
    (checkpoint / "evil\x1b]0;title\x07.txt").touch()
    with caplog.at_level("INFO", logger="zeroconsolidate"):
        zeroconsolidate.consolidate(checkpoint, tmp_path / "out")
    assert "evil\\x1b]0;title\\x07.txt" in caplog.text
    assert "\x1b" not in caplog.text
