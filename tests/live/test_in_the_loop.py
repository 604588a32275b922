"""Real trainings with DeepSpeed, beside which saves become models; the truth is what the engine held at each save."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from command import REPOSITORY, environment
from command import zeroconsolidate as command
from safetensors.torch import load_file

from zeroconsolidate import inspect_run, prune, verify

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.live, pytest.mark.long]
NOW = {"niceness": 0}
"""Tests do not wait for what other tests leave of the processor."""


def train(folder: Path, *arguments: object, dies: bool = False, **options: Any) -> None:
    """A training in `folder`, with our callback if it has options."""
    pytest.importorskip("deepspeed")
    words = ["--out", str(folder), *map(str, arguments)]
    if options:
        words += ["--options", json.dumps(options)]
    done = subprocess.run(
        [sys.executable, "tools/in_the_loop/run.py", *words],
        cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert (done.returncode != 0) is dies, done.stderr[-3000:]


def models(out: Path, folder: str = "run-models") -> dict[str, Path]:
    """What is under a final name. Nothing of it is half-made, and each is what the engine held."""
    found = {path.name: path for path in (out / folder).iterdir() if not path.name.startswith(".")}
    for name, path in found.items():
        step = name.removesuffix(".ckpt").replace("=", "-").rpartition("-")[2]
        written, truth = load_file(path / "model.safetensors"), load_file(out / f"truth-{step}.safetensors")
        assert written.keys() == truth.keys(), name
        assert all(torch.equal(written[key], truth[key]) for key in truth), name
        assert (path / "zeroconsolidate.json").exists(), name
        assert not (path / ".zeroconsolidate").exists(), name
    return found


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk with room for one of two models."""
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=144k", "none", place], check=False).returncode:
        pytest.skip("nothing may be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_saves_in_quick_succession_with_the_trainer(tmp_path: Path) -> None:
    """A save each step: the next comes while the one before is converted."""
    train(tmp_path, "--stage", 3, "--steps", 3, "--save-every", 1, **NOW, verify=True, keep=2)
    assert sorted(models(tmp_path)) == ["checkpoint-2", "checkpoint-3"]
    log = json.loads((tmp_path / "state.json").read_text())["log_history"]
    assert [entry["consolidated"] for entry in log if "consolidated_step" in entry] == [
        f"run-models/checkpoint-{step}" for step in (1, 2, 3)
    ]
    assert command("inspect", tmp_path / "run").returncode == 0


def test_a_training_that_is_killed_in_the_middle_of_a_save(tmp_path: Path) -> None:
    """It is started again from where `inspect` says, passes the same step, and nothing is lost or half-made."""
    train(tmp_path, "--stage", 2, "--die-at", 4, dies=True, **NOW)
    run = inspect_run(tmp_path / "run")
    assert (run.newest.name, run.newest.complete, run.resume.save) == ("checkpoint-4", False, "checkpoint-2")
    assert command("inspect", tmp_path / "run").returncode == 3
    said, _, path = str(run.resume.line).partition("=")
    assert (said, path) == ("resume_from_checkpoint", str(tmp_path / "run" / "checkpoint-2"))
    train(tmp_path, "--stage", 2, "--resume", path, **NOW)
    # The process for the first save outlived the training that started it, or its model is made now.
    done = command("watch", tmp_path / "run", "--idle", 0, "--interval", 0.1)
    assert done.returncode == 0, done.stdout
    assert sorted(models(tmp_path)) == ["checkpoint-2", "checkpoint-4"]
    assert inspect_run(tmp_path / "run").resume.newest_whole


def test_saves_that_are_rotated_away_while_they_wait_or_are_read(tmp_path: Path) -> None:
    train(tmp_path, "--stage", 2, "--steps", 4, "--save-every", 1, "--limit", 1, **NOW)
    found = models(tmp_path)
    assert "checkpoint-4" in found
    log = json.loads((tmp_path / "state.json").read_text())["log_history"]
    fates = {
        entry["consolidated_step"]: entry.get("consolidate_error", "") for entry in log if "consolidated_step" in entry
    }
    assert list(fates) == [1, 2, 3, 4]
    assert {f"checkpoint-{step}" for step, error in fates.items() if not error} == found.keys()
    assert all("was removed before" in error for error in fates.values() if error)


def test_shards_are_removed_only_of_verified_saves(tmp_path: Path) -> None:
    train(tmp_path, "--stage", 3, "--steps", 3, "--save-every", 1, **NOW, prune=1)
    assert sorted(models(tmp_path)) == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    prune(tmp_path / "run", keep=1, yes=True)
    assert [len([*tmp_path.glob(f"run/checkpoint-{step}/*/*optim*")]) for step in (1, 2, 3)] == [0, 0, 2]
    train(tmp_path, "--stage", 3, "--steps", 4, "--save-every", 1, "--resume", tmp_path / "run" / "checkpoint-3", **NOW)
    assert sorted(models(tmp_path)) == [f"checkpoint-{step}" for step in (1, 2, 3, 4)]


def test_a_full_disk(tmp_path: Path, small_disk: Path) -> None:
    """Training goes on; what does not fit is said, and made when there is room."""
    train(tmp_path, "--stage", 2, **NOW, out=str(small_disk / "{name}"))
    assert sorted(models(tmp_path, "small")) == ["checkpoint-2"]
    log = json.loads((tmp_path / "state.json").read_text())["log_history"]
    assert next(entry["consolidate_error"] for entry in log if "consolidate_error" in entry).startswith("the disk ")
    shutil.rmtree(small_disk / "checkpoint-2")
    done = command("watch", tmp_path / "run", f"{small_disk}/{{name}}", "--idle", 0, "--interval", 0.1)
    assert done.returncode == 0, done.stdout
    assert sorted(models(tmp_path, "small")) == ["checkpoint-4"]


def test_a_watcher_beside_a_training_that_knows_nothing_of_it(tmp_path: Path) -> None:
    """It is killed after the first model, and started again."""

    def watcher() -> subprocess.Popen[str]:
        words = ["watch", tmp_path / "run", "--interval", "0.2", "--until-step", "3", "--json"]
        return subprocess.Popen(
            [sys.executable, "-m", "zeroconsolidate", *map(str, words)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )

    first = watcher()
    train(tmp_path, "--stage", 3, "--steps", 3, "--save-every", 1)
    assert first.stdout is not None
    assert json.loads(first.stdout.readline())["name"] == "checkpoint-1"
    first.kill()
    first.communicate()
    second = watcher()
    printed, _ = second.communicate(timeout=120)
    assert second.returncode == 0
    assert all(json.loads(line)["ok"] for line in printed.splitlines())
    found = models(tmp_path)
    assert sorted(found) == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    assert all(verify(path, against=tmp_path / "run" / name).ok for name, path in found.items())


def test_lightning(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    train(tmp_path, "--trainer", "lightning", "--stage", 2, "--steps", 6, **NOW, when="save")
    assert sorted(models(tmp_path)) == ["step=2.ckpt", "step=4.ckpt", "step=6.ckpt"]
    run = inspect_run(tmp_path / "run")
    assert (run.best, run.newest.whole, run.newest.saved_by) == ("step=6.ckpt", True, "Lightning")
    path = str(run.resume.line).partition('"')[2].rpartition('"')[0]
    train(tmp_path, "--trainer", "lightning", "--stage", 2, "--steps", 8, "--resume", path, **NOW, when="end")
    assert "step=8.ckpt" in models(tmp_path)
