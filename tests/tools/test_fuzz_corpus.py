"""Every input the fuzzer kept, and every one it found something with (`found-*`), through the functions it fuzzes."""

from __future__ import annotations

import sys

import pytest
from command import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "tools" / "fuzz"))

from targets import TARGETS, run

CORPUS = REPOSITORY / "tests" / "fuzz_corpus"


@pytest.mark.parametrize("target", TARGETS)
def test_kept_inputs_are_read_or_refused(target):
    inputs = sorted((CORPUS / target).iterdir())
    accepted = 0
    for path in inputs:
        try:
            accepted += run(target, path.read_bytes())
        except Exception as error:
            raise AssertionError(f"{path.relative_to(REPOSITORY)}") from error
    assert 0 < accepted < len(inputs), "the corpus should reach what lies behind the checks, and the checks"
