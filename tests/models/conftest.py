"""These tests load transformers anyway: the architecture is asked in this process, which saves starting many others."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from zeroconsolidate import evidence
from zeroconsolidate.integrations import architecture

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session", autouse=True)
def asked_in_this_process(tmp_path_factory: pytest.TempPathFactory) -> Any:
    def ask(config: bytes) -> tuple[evidence.Architecture | None, str]:
        folder = tmp_path_factory.mktemp("config")
        (folder / "config.json").write_bytes(config)
        answer = json.loads(json.dumps(architecture.expectation(str(folder))))
        return evidence._architecture(answer), ""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evidence, "_ask", ask)
        yield


@pytest.fixture(scope="session")
def where(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where conversions are kept for other tests of the session."""
    return tmp_path_factory.mktemp("converted")
