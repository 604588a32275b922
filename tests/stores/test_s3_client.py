"""The client for S3: what it lists, with which settings it is made, and what it signs."""

from __future__ import annotations

import hashlib
from io import BytesIO
from typing import TYPE_CHECKING, Any

import fsspec.config
import pytest
from botocore import UNSIGNED
from botocore.awsrequest import AWSResponse

import zeroconsolidate
from zeroconsolidate.errors import BadOption, StoreFailed
from zeroconsolidate.integrations.object_stores import store_of
from zeroconsolidate.integrations.s3_client import s3_client
from zeroconsolidate.integrations.s3_store import S3Store
from zeroconsolidate.integrations.s3_uploads import S3Uploads

if TYPE_CHECKING:
    from s3_server import Store

KEYS = ["run/latest", "run/global_step2/a.pt", "run/global_step2/b.pt", "run/global_step2/deep/c.pt",
        "run/global_step3/a.pt", "run-2/a.pt", "run.txt", "run/zz"]  # fmt: skip


@pytest.fixture
def filled(s3: Store) -> Store:
    for key in KEYS:
        s3.direct("PUT", key, key.encode())
    s3.direct("PUT", "run/", b"")  # what consoles make for a folder
    s3.direct("PUT", "run-2", b"")  # what other programs make for one
    return s3


@pytest.mark.parametrize("most_keys", [1000, 3, 2])
class TestListing:
    """One answer has all, or it has pages."""

    @pytest.fixture
    def store(self, filled: Store, most_keys: int) -> S3Store:
        store = S3Store("s3")
        store._more = {"MaxKeys": most_keys}
        return store

    def test_a_folder(self, store: S3Store) -> None:
        found = store.entries("s3://runs/run")
        assert {name: item.is_folder for name, item in found.items()} == {
            "latest": False, "global_step2": True, "global_step3": True, "zz": False,
        }  # fmt: skip
        assert {name: item.size_bytes for name, item in found.items() if not item.is_folder} == {"latest": 10, "zz": 6}
        assert found["latest"].identity == f'"{hashlib.md5(b"run/latest", usedforsecurity=False).hexdigest()}"'
        assert set(store.entries("s3://runs/run/global_step2")) == {"a.pt", "b.pt", "deep"}
        assert set(store.entries("s3://runs/run/global_step2/deep")) == {"c.pt"}

    def test_a_bucket(self, store: S3Store) -> None:
        assert set(store.entries("s3://runs")) == {"run", "run-2", "run.txt"}
        assert store.look("s3://runs").is_folder

    def test_all_that_is_in_a_folder(self, store: S3Store) -> None:
        assert set(store.tree("s3://runs/run")) == {
            key.removeprefix("run/") for key in KEYS if key.startswith("run/")
        }  # fmt: skip

    def test_what_a_name_is(self, store: S3Store) -> None:
        """Others begin alike."""
        for name, is_folder in [("run", True), ("run.txt", False), ("run-2", True), ("run/zz", False)]:
            store.forget()
            assert store.look(f"s3://runs/{name}").is_folder is is_folder
        for name in ("ru", "run-", "run/global_step", "run/latest/x"):
            store.forget()
            with pytest.raises(FileNotFoundError):
                store.look(f"s3://runs/{name}")

    def test_what_is_no_folder(self, store: S3Store) -> None:
        with pytest.raises(NotADirectoryError):
            store.entries("s3://runs/run.txt")
        with pytest.raises(FileNotFoundError):
            store.entries("s3://runs/ru")


def test_one_answer_is_enough_for_a_checkpoint(filled: Store) -> None:
    store = S3Store("s3")
    for folder in ("run", "run/global_step2", "run/global_step3"):
        store.entries(f"s3://runs/{folder}")
    assert store.look("s3://runs/run/global_step3/a.pt").size_bytes == 21
    assert len(filled.requests) == 1


class TestSettings:
    """What fsspec's configuration has for s3fs holds here."""

    @pytest.fixture(autouse=True)
    def conf(self, server: Store, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        conf: dict[str, Any] = {}
        monkeypatch.setenv("FSSPEC_S3_ANYTHING", "said")
        monkeypatch.setitem(fsspec.config.conf, "s3", conf)
        return conf

    def test_no_credentials(self, conf: dict[str, Any]) -> None:
        conf["anon"] = "true"
        assert s3_client()[0].meta.config.signature_version is UNSIGNED
        conf["anon"] = "false"
        assert s3_client()[0].meta.config.signature_version is not UNSIGNED

    def test_endpoint_and_keys(self, conf: dict[str, Any]) -> None:
        conf |= {"endpoint_url": "http://other:1", "key": "mine", "secret": "hidden"}
        conf["config_kwargs"] = {"s3": {"addressing_style": "path"}}
        client, _ = s3_client()
        assert client.meta.endpoint_url == "http://other:1"
        assert client._request_signer._credentials.access_key == "mine"
        assert client.meta.config.s3 == {"addressing_style": "path", "payload_signing_enabled": True}

    def test_what_goes_with_requests_that_take_it(self, conf: dict[str, Any], filled: Store) -> None:
        conf |= {"requester_pays": True, "s3_additional_kwargs": {"ServerSideEncryption": "AES256"}}
        store, asked = S3Store("s3"), []
        store._client.meta.events.register("provide-client-params.s3", lambda params, **_: asked.append(dict(params)))
        store.look("s3://runs/run.txt")
        S3Uploads(store).put("s3://runs/new", b"x")
        assert asked[0]["RequestPayer"] == asked[1]["RequestPayer"] == "requester"
        assert [each.get("ServerSideEncryption") for each in asked] == [None, "AES256"]

    def test_a_profile_that_is_not_there(self, conf: dict[str, Any]) -> None:
        conf["profile"] = "nobody"
        with pytest.raises(BadOption, match="client for S3 cannot be made: ProfileNotFound"):
            s3_client()


class Nothing(BytesIO):
    """The body of an answer that has none."""

    def stream(self, *_: object) -> list[bytes]:
        return []


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "https://127.0.0.1:9"])
def test_what_is_sent_is_signed(server: Store, monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """S3 refuses a body with another SHA-256 than the signed one, also where the connection is encrypted."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    store, sent = S3Store("s3"), []

    def answer(request: Any, **_: object) -> AWSResponse:
        assert "Expect" not in request.headers
        sent.append((request.headers["X-Amz-Content-SHA256"].decode(), bytes(request.body)))
        return AWSResponse(request.url, 200, {"ETag": '"e"'}, Nothing())

    store._client.meta.events.register("before-send.s3", answer)
    assert S3Uploads(store).part("s3://runs/x", "upload", 1, bytearray(b"values")) == '"e"'
    S3Uploads(store).put("s3://runs/x", b"small")
    assert sent == [(hashlib.sha256(data).hexdigest(), data) for data in (b"values", b"small")]


def test_a_name_that_no_bucket_can_have(server: Store) -> None:
    with pytest.raises(BadOption, match="cannot have this name"):
        zeroconsolidate.inspect("s3://No_Such_Bucket!/run")


def test_no_credentials_at_all(s3: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StoreFailed, match=r"refuses access: NoCredentialsError.*check the credentials"):
        S3Store("s3").entries("s3://runs/run")
    assert store_of("s3://runs") is store_of("s3://other")
