"""These tests load transformers anyway: the architecture is asked in this process, which saves starting many others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from converted import ask_in_this_process

from zeroconsolidate.naming import asking

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session", autouse=True)
def asked_in_this_process() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asking, "ask", ask_in_this_process)
        yield


@pytest.fixture(scope="session")
def where(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where conversions are kept for other tests of the session."""
    return tmp_path_factory.mktemp("converted")
