"""What every test may ask for."""

from __future__ import annotations

from contextlib import suppress

import pytest
from fixtures import Fixture, fixture_cases, load_fixture

with suppress(ImportError):  # environments that only load models have no hypothesis
    from hypothesis import settings

    # Timings are never asserted: a busy machine is no error.
    settings.register_profile("untimed", deadline=None)
    settings.load_profile("untimed")


@pytest.fixture(params=fixture_cases())
def fixture(request: pytest.FixtureRequest) -> Fixture:
    """Every committed fixture in turn."""
    return load_fixture(request.param)
