"""Checkpoints and outputs in Google's store, as an emulator of its API has it, through gcsfs."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

# gcsfs would ask another service, which no emulator has, what kind of bucket it is. It reads this when it is imported.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"

pytest.importorskip("gcp_storage_emulator", reason="needs a server: sh tools/test_stores.sh")
pytest.importorskip("gcsfs", reason="needs a client: sh tools/test_stores.sh")

import fsspec
import torchless
from fixtures import FIXTURES
from gcs_server import gcs_server

import zeroconsolidate
from zeroconsolidate.errors import BadOption, NotACheckpoint
from zeroconsolidate.integrations import object_stores
from zeroconsolidate.write.staging import abort

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fsspec import AbstractFileSystem

CHECKPOINT = FIXTURES / "trainer_zero3_tied/checkpoint"


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    with gcs_server() as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", address)
        patch.setenv("GOOGLE_CLOUD_PROJECT", "test")
        patch.setenv("FSSPEC_GS_TOKEN", "anon")
        patch.setitem(fsspec.config.conf, "gs", {"token": "anon"})
        object_stores._store.cache_clear()
        yield
        object_stores._store.cache_clear()


@pytest.fixture
def bucket(server: None) -> Iterator[AbstractFileSystem]:
    files = object_stores.store_of("gs://runs").files
    yield files
    for name in files.find("runs"):
        files.rm_file(name)
    object_stores.store_of("gs://runs").forget()


def put(bucket: AbstractFileSystem, folder: Path) -> str:
    for file in folder.rglob("*"):
        if file.is_file():
            bucket.pipe_file(f"runs/run/{file.relative_to(folder)}", file.read_bytes())
    return "gs://runs/run"


def contents(bucket: AbstractFileSystem) -> dict[str, bytes]:
    found = bucket.find("runs/model")
    return {name.removeprefix("runs/model/"): bucket.cat_file(name) for name in found}


def files_in(here: Path) -> dict[str, bytes]:
    return {path.relative_to(here).as_posix(): path.read_bytes() for path in here.rglob("*") if path.is_file()}


def test_read(bucket: AbstractFileSystem, tmp_path: Path) -> None:
    url = put(bucket, CHECKPOINT)
    assert zeroconsolidate.inspect(url).parameters == zeroconsolidate.inspect(CHECKPOINT).parameters
    zeroconsolidate.consolidate(url, tmp_path / "there")
    zeroconsolidate.consolidate(CHECKPOINT, tmp_path / "here")
    there, here = files_in(tmp_path / "there"), files_in(tmp_path / "here")
    del there["zeroconsolidate.json"], here["zeroconsolidate.json"]  # it has the times of local files
    assert there == here
    with pytest.raises(NotACheckpoint):
        zeroconsolidate.inspect("gs://runs/nothing")


@pytest.mark.parametrize("options", [{}, {"dtype": "bf16", "max_shard_size": "20KB", "digest": "sha256"}], ids=str)
def test_write(options: dict[str, object], bucket: AbstractFileSystem, tmp_path: Path) -> None:
    zeroconsolidate.consolidate(CHECKPOINT, tmp_path / "here", **options)
    zeroconsolidate.consolidate(CHECKPOINT, "gs://runs/model", **options)
    assert contents(bucket) == files_in(tmp_path / "here")
    assert zeroconsolidate.verify("gs://runs/model", against=CHECKPOINT).ok


def test_what_is_left_can_be_removed(bucket: AbstractFileSystem) -> None:
    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        zeroconsolidate.consolidate(CHECKPOINT, "gs://runs/model", max_shard_size="20KB", progress=stop)
    assert abort("gs://runs/model") > 0
    assert contents(bucket) == {}


def test_parts_of_several_machines_are_refused(bucket: AbstractFileSystem) -> None:
    with pytest.raises(BadOption, match="to other stores one machine sends a file"):
        zeroconsolidate.consolidate_part(CHECKPOINT, "gs://runs/model", "1/2")


MEASURED = """
import os, sys, tracemalloc
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
import gcsfs, zeroconsolidate
from zeroconsolidate.integrations import object_stores
object_stores.store_of("gs://runs")
tracemalloc.start()
report = zeroconsolidate.consolidate(sys.argv[1], sys.argv[2])
print(report.bytes_written, tracemalloc.get_traced_memory()[1])
"""


def test_a_large_file_goes_in_parts(bucket: AbstractFileSystem, tmp_path: Path) -> None:
    """120 MB, of which 8 MiB are sent at a time, and the client has a copy or two of what it sends."""
    torchless.write(tmp_path / "run", torchless.values_of(120), ranks=2)
    zeroconsolidate.consolidate(tmp_path / "run", tmp_path / "here")
    command = [sys.executable, "-c", MEASURED, str(tmp_path / "run"), "gs://runs/model"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    written, peak = map(int, done.stdout.split())
    assert written > 110e6
    assert peak < 64 << 20
    assert contents(bucket) == files_in(tmp_path / "here")
    zeroconsolidate.consolidate(put(bucket, tmp_path / "run"), tmp_path / "there")
    weights = "model.safetensors"
    assert (tmp_path / "there" / weights).read_bytes() == (tmp_path / "here" / weights).read_bytes()
