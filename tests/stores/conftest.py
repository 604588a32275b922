"""A server on loopback for each process that runs tests, and no credentials but its own."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("moto", reason="needs a server: sh tools/test_stores.sh")

from s3_server import Store, s3_server

from zeroconsolidate.integrations import object_stores, store_calls

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session", autouse=True)
def _temporary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A temporary directory for each process: locks are there, by the URLs of outputs, which are the same for all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("temporary")))
        patch.setattr(tempfile, "tempdir", None)
        yield


@pytest.fixture(scope="session")
def server() -> Iterator[Store]:
    with s3_server() as store, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", store.endpoint)
        patch.setenv("AWS_CONFIG_FILE", "/dev/null")
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        patch.setenv("AWS_MAX_ATTEMPTS", "1")
        yield store


@pytest.fixture
def s3(server: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The server, which does not fail unless a test says so, and is asked again soon."""
    monkeypatch.setattr(store_calls, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(store_calls, "LONGEST_PAUSE_SECONDS", 0.05)
    object_stores.store_of("s3://runs").forget()
    yield server
    server.rule = lambda _: None
    server.empty()
    server.requests.clear()
