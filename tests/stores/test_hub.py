"""Checkpoints in a repository of the Hugging Face hub, through huggingface_hub, from a stand-in on loopback."""

from __future__ import annotations

import filecmp
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from fixtures import FIXTURES
from hub_server import hub_server

import zeroconsolidate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hub_server import Hub


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with hub_server() as found:
        found.home = str(tmp_path / "home")
        yield found


def command(hub: Hub, *words: object) -> subprocess.CompletedProcess[str]:
    """In a process of its own: huggingface_hub looks for its endpoint when it is imported."""
    environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HOME": hub.home}
    return subprocess.run(
        [sys.executable, "-m", "zeroconsolidate", *map(str, words)],
        capture_output=True, text=True, check=False, env=environment, timeout=100,
    )  # fmt: skip


@pytest.mark.parametrize("revision", ["", "@main"])
def test_convert_and_verify(hub: Hub, revision: str, tmp_path: Path):
    url = hub.put(FIXTURES / "trainer_zero3_tied/checkpoint", "checkpoint-3").replace("/run/", f"/run{revision}/")
    done = command(hub, "convert", url, tmp_path / "there")
    assert done.returncode == 0, done.stderr
    zeroconsolidate.consolidate(FIXTURES / "trainer_zero3_tied/checkpoint", tmp_path / "here")
    names = sorted(os.listdir(tmp_path / "here"))
    assert sorted(os.listdir(tmp_path / "there")) == names
    assert filecmp.cmpfiles(tmp_path / "here", tmp_path / "there", names, shallow=False) == (names, [], [])
    assert command(hub, "verify", tmp_path / "there", "--against", url).returncode == 0
    assert all("-" in asked and not asked.endswith("-") for _, asked in hub.ranges)


def test_a_hub_that_fails_now_and_then(hub: Hub, tmp_path: Path):
    url = hub.put(FIXTURES / "z3_bf16/checkpoint", "run")
    hub.failures += [500, 503, 502]
    done = command(hub, "convert", url, tmp_path / "there")
    assert done.returncode == 0, done.stderr
    assert hub.failures == []


@pytest.mark.parametrize("status", [401, 403])
def test_a_hub_that_refuses(hub: Hub, status: int):
    url = hub.put(FIXTURES / "z3_bf16/checkpoint", "run")
    hub.failures += [status] * 100
    done = command(hub, "inspect", url)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "the store refuses access" in done.stderr


def test_no_such_repository(hub: Hub):
    done = command(hub, "inspect", "hf://owner/other/run")
    assert done.returncode == 2
    assert "there is no such directory" in done.stderr
