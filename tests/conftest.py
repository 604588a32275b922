"""What every test may ask for."""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import preloaded
import pytest
from fixtures import Fixture, fixture_cases, load_fixture

from zeroconsolidate.integrations import apart
from zeroconsolidate.naming import asking

if TYPE_CHECKING:
    from collections.abc import Iterator

with suppress(ImportError):  # environments that only load models have no hypothesis
    from hypothesis import settings

    # Timings are never asserted: a busy machine is no error.
    settings.register_profile("untimed", deadline=None)
    settings.load_profile("untimed")

# Whatever tests ask transformers is neither looked up in the user's cache directory nor kept there.
os.environ["XDG_CACHE_HOME"] = os.devnull


@pytest.fixture(params=fixture_cases())
def fixture(request: pytest.FixtureRequest) -> Fixture:
    """Every committed fixture in turn."""
    return load_fixture(request.param)


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The configs that transformers is asked about."""
    asked: list[bytes] = []
    ask = asking.ask
    monkeypatch.setattr(asking, "ask", lambda config: (asked.append(config), ask(config))[1])
    return asked


def pytest_configure(config: pytest.Config) -> None:
    """One folder for all processes of a session: workers inherit the variable."""
    if preloaded.FOLDER not in os.environ:
        folder = Path(tempfile.mkdtemp(prefix="preloaded-"))
        os.environ[preloaded.FOLDER] = str(folder)
        preloaded.stand_in(folder)

        def end() -> None:
            preloaded.end(folder)
            del os.environ[preloaded.FOLDER]

        config.add_cleanup(end)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`tools/test_long.sh` and `tools/test_pages.sh` find the files of their tests by these words."""
    for marker in ("long", "pages"):
        for path in {item.path for item in items if item.get_closest_marker(marker)}:
            if f"mark.{marker}" not in path.read_text():
                raise pytest.UsageError(f"{path} has tests that are marked {marker}, and not the words mark.{marker}")


@pytest.fixture(scope="session", autouse=True)
def preloaded_python() -> Iterator[None]:
    """What the package asks transformers and PEFT in processes of their own is answered by forks of one."""
    python = SimpleNamespace(executable=preloaded.python())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apart, "sys", python)
        yield


@pytest.fixture
def processes_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of how these processes are started."""
    monkeypatch.setattr(apart, "sys", sys)
