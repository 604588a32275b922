"""Every input the fuzzer kept, and every one it found something with (`found-*`), through the functions it fuzzes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools" / "fuzz"))

from targets import TARGETS, run  # noqa: E402

CORPUS = ROOT / "tests" / "fuzz_corpus"


@pytest.mark.parametrize("target", TARGETS)
def test_kept_inputs_are_read_or_refused(target):
    inputs = sorted((CORPUS / target).iterdir())
    accepted = 0
    for path in inputs:
        try:
            accepted += run(target, path.read_bytes())
        except Exception as error:
            raise AssertionError(f"{path.relative_to(ROOT)}") from error
    assert 0 < accepted < len(inputs), "the corpus should reach what lies behind the checks, and the checks"
