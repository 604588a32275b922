"""A run in S3 that is watched: its models are those of the same run on a disk."""

from __future__ import annotations

import filecmp
import shutil
from typing import TYPE_CHECKING

import pytest
from fixtures import FIXTURES

import zeroconsolidate
from zeroconsolidate.errors import BadOption, NotACheckpoint

if TYPE_CHECKING:
    from pathlib import Path

    from s3_server import Store

CHECKPOINT = FIXTURES / "trainer_zero3_tied/checkpoint"
MODEL = "model.safetensors"


def watched(url: str, models: Path) -> list[zeroconsolidate.Watched]:
    return list(zeroconsolidate.watch(url, models / "{name}", idle=0, interval=0))


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    zeroconsolidate.consolidate(CHECKPOINT, tmp_path / "truth")
    return tmp_path / "truth"


def test_each_save_is_converted_once(s3: Store, tmp_path: Path, truth: Path) -> None:
    s3.put(CHECKPOINT, "run/checkpoint-2")
    s3.put(CHECKPOINT, "run/checkpoint-4")
    found = watched(s3.url("run"), tmp_path / "models")
    assert [(each.name, each.step, each.made) for each in found] == [
        ("checkpoint-2", 2, True),
        ("checkpoint-4", 4, True),
    ]
    assert all(filecmp.cmp(f"{each.output}/{MODEL}", truth / MODEL, shallow=False) for each in found)
    assert watched(s3.url("run"), tmp_path / "models") == []


def test_a_save_that_is_written_again_is_converted_again(s3: Store, tmp_path: Path, truth: Path) -> None:
    """Its files have the same sizes, and a store says no times: their ETags differ."""
    s3.put(CHECKPOINT, "run/checkpoint-2")
    assert len(watched(s3.url("run"), tmp_path / "models")) == 1
    again = shutil.copytree(CHECKPOINT, tmp_path / "again")
    states = min(again.rglob("*optim_states.pt"))
    data = bytearray(states.read_bytes())
    first = zeroconsolidate.open_checkpoint(CHECKPOINT)["model.embed_tokens.weight"].numpy().tobytes()[:64]
    data[data.index(first)] ^= 1
    states.write_bytes(data)
    s3.put(again, "run/checkpoint-2")
    (event,) = watched(s3.url("run"), tmp_path / "models")
    assert event.made
    assert not filecmp.cmp(f"{event.output}/{MODEL}", truth / MODEL, shallow=False)


def test_a_save_is_waited_for(s3: Store, tmp_path: Path) -> None:
    part = shutil.copytree(CHECKPOINT, tmp_path / "part")
    last = max(part.rglob("*optim_states.pt"))
    kept = last.read_bytes()
    last.unlink()
    s3.put(part, "run/checkpoint-2")
    (event,) = watched(s3.url("run"), tmp_path / "models")
    assert not event.made
    assert event.message.startswith("it is not complete: ")
    last.write_bytes(kept)
    s3.put(part, "run/checkpoint-2")
    (event,) = watched(s3.url("run"), tmp_path / "models")
    assert event.made


def test_a_run_that_does_not_begin(s3: Store, tmp_path: Path) -> None:
    """It may have been mistyped."""
    with pytest.raises(NotACheckpoint, match=r"no such directory; expected the directory of a run \(at s3://"):
        watched(s3.url("later"), tmp_path / "models")


def test_what_needs_a_directory_is_refused(s3: Store, tmp_path: Path) -> None:
    with pytest.raises(BadOption, match=r"must be on this machine.*'models/\{name\}'"):
        zeroconsolidate.watch(s3.url("run"))
    with pytest.raises(BadOption, match="must be on this machine"):
        zeroconsolidate.watch(tmp_path, s3.url("models/{name}"))
    with pytest.raises(BadOption, match=r"prune.* removes files of this machine only"):
        zeroconsolidate.watch(s3.url("run"), tmp_path / "{name}", prune=1)
