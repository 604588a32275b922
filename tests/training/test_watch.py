"""Saves become models as they appear, whatever happens meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest
import zero_model
from command import environment, signals
from command import zeroconsolidate as command
from run_directories import age, hide, is_model_of, save

import zeroconsolidate
from zeroconsolidate import consolidate
from zeroconsolidate.errors import BadOption, OutputFailed
from zeroconsolidate.options import WatchOptions
from zeroconsolidate.training import making, settling
from zeroconsolidate.training.watching import Watch
from zeroconsolidate.write.lock import Lock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zeroconsolidate import Watched


class Clock:
    """A monotonic clock that goes on while the watcher pauses. Meanwhile things happen, one at each pause."""

    def __init__(self, *happenings: Callable[[], object]) -> None:
        self.seconds = 0.0
        self._happenings = deque(happenings)

    def now(self) -> float:
        return self.seconds

    def pause(self, seconds: float) -> None:
        self.seconds += seconds
        if self._happenings:
            self._happenings.popleft()()


def nothing() -> None:
    """Nothing happens."""


def watched(run: Path, *happenings: Callable[[], object], **options: Any) -> list[Watched]:
    """What a watcher yields until nothing happens any more."""
    clock = Clock(*happenings)
    chosen = WatchOptions(**({"idle": 5, "interval": 1} | options))
    return list(Watch([str(run)], "{run}-models/{name}", chosen, now=clock.now, pause=clock.pause).events())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def models(run: Path) -> Path:
    return run.parent / "run-models"


def test_saves_become_models_as_they_appear(run: Path) -> None:
    """The directory is not there at first."""
    events = watched(run, lambda: save(run, 1), nothing, nothing, lambda: save(run, 2), lambda: save(run, 3))
    assert [(event.name, event.step, event.made) for event in events] == [
        ("checkpoint-1", 1, True), ("checkpoint-2", 2, True), ("checkpoint-3", 3, True),
    ]  # fmt: skip
    assert all(is_model_of(models(run) / f"checkpoint-{step}", step) for step in (1, 2, 3))


@pytest.mark.parametrize("pattern", ["*/*rank_1*optim*", "*/*model_states*"])
def test_a_half_written_one_is_waited_for(run: Path, tmp_path: Path, pattern: str) -> None:
    folder = save(run, 1)
    missing = next(folder.glob(pattern))
    hidden = hide(missing, tmp_path / "hidden")
    cut = hidden.read_bytes()[:-30]
    events = watched(
        run, nothing, nothing, lambda: missing.write_bytes(cut), nothing, nothing, lambda: hide(hidden, missing.parent)
    )
    assert [event.made for event in events] == [True]
    assert is_model_of(models(run) / "checkpoint-1", 1)


def test_one_that_is_never_completed_is_said_at_the_end(run: Path) -> None:
    save(run, 1)
    next(save(run, 2).glob("*/*rank_1*optim*")).unlink()
    first, second = watched(run)
    assert (first.made, second.made) == (True, False)
    assert second.message.startswith("it is not complete: bf16_zero_pp_rank_1")
    assert [path.name for path in models(run).iterdir() if not path.name.startswith(".")] == ["checkpoint-1"]


def test_latest_is_waited_for(run: Path) -> None:
    for step in (1, 2):
        zero_model.save(zero_model.example(2, step=step), run, f"global_step{step}", latest=step == 1)
    clock = Clock()
    watcher = Watch(
        [str(run)], "{run}-models/{name}", WatchOptions(interval=1, until_step=2), now=clock.now, pause=clock.pause
    )
    assert [event.name for event in watcher.events()] == ["global_step1", "global_step2"]
    assert clock.seconds >= settling.UNNAMED_SECONDS


def test_started_again_it_goes_on(run: Path) -> None:
    save(run, 1)
    assert len(watched(run)) == 1
    before = (models(run) / "checkpoint-1" / "model.safetensors").stat()
    save(run, 2)
    assert [event.name for event in watched(run)] == ["checkpoint-2"]
    assert (models(run) / "checkpoint-1" / "model.safetensors").stat() == before
    assert watched(run) == []


def test_what_was_made_by_hand_is_not_made_again(run: Path) -> None:
    consolidate(save(run, 1), models(run) / "checkpoint-1")
    assert watched(run) == []


@pytest.mark.parametrize("meanwhile", [True, False])
def test_a_training_that_is_started_again_passes_the_same_step(run: Path, meanwhile: bool) -> None:
    """It was resumed from an earlier save and saves the step again: with other values, under the same name."""

    def again() -> None:
        shutil.rmtree(run / "checkpoint-2")
        save(run, 7).rename(run / "checkpoint-2")

    save(run, 2)
    if meanwhile:
        assert len(watched(run, nothing, nothing, again)) == 2
    else:
        watched(run)
        again()
        assert len(watched(run)) == 1
    assert is_model_of(models(run) / "checkpoint-2", 7)


def test_a_save_that_changed_while_its_conversion_lay_interrupted(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zeroconsolidate.write.stage import Stage

    def interrupted(self: Stage, last: object) -> None:
        raise KeyboardInterrupt

    save(run, 2)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Stage, "publish", interrupted)
        watched(run)
    assert (models(run) / "checkpoint-2" / ".zeroconsolidate" / "journal").exists()
    shutil.rmtree(run / "checkpoint-2")
    save(run, 7).rename(run / "checkpoint-2")
    assert [event.made for event in watched(run)] == [True]
    assert is_model_of(models(run) / "checkpoint-2", 7)


@pytest.mark.parametrize("step", ["reading metadata", "copying"])
def test_one_that_is_rotated_away_while_it_is_read(run: Path, step: str) -> None:
    """The next save is converted; of the one that has gone nothing is left."""
    save(run, 1)

    def rotate(doing: str) -> None:
        if doing == step and (run / "checkpoint-1").exists():
            shutil.rmtree(run / "checkpoint-1")
            save(run, 2)

    events = watched(run, status=rotate)
    assert [(event.name, event.made) for event in events] == [("checkpoint-1", False), ("checkpoint-2", True)]
    assert "checkpoint-1 was removed before its model was made" in events[0].message
    assert [path.name for path in models(run).iterdir() if not path.name.startswith(".")] == ["checkpoint-2"]


def test_a_full_disk_is_said_once_and_tried_again(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, left = making.consolidate, [3]

    def full(*arguments: Any, **options: Any) -> object:
        if left[0]:
            left[0] -= 1
            raise OutputFailed("the disk is full", address=("model.safetensors",))
        return real(*arguments, **options)

    monkeypatch.setattr(making, "consolidate", full)
    save(run, 1)
    events = watched(run)
    assert [(event.made, event.message) for event in events] == [
        (False, "the disk is full (at model.safetensors)"), (True, ""),
    ]  # fmt: skip
    assert is_model_of(models(run) / "checkpoint-1", 1)


def test_two_at_once(run: Path) -> None:
    """While another process writes the model, it is left alone; the other one dies, and it is made."""
    save(run, 1)
    staging = models(run) / "checkpoint-1" / ".zeroconsolidate"
    staging.mkdir(parents=True)
    lock = Lock(str(staging / "lock"))
    events = watched(run, nothing, nothing, nothing, lock.release)
    assert [event.made for event in events] == [True]
    assert is_model_of(models(run) / "checkpoint-1", 1)


def test_what_another_makes_is_not_said_to_be_incomplete(run: Path) -> None:
    save(run, 1)
    staging = models(run) / "checkpoint-1" / ".zeroconsolidate"
    staging.mkdir(parents=True)
    lock = Lock(str(staging / "lock"))
    assert watched(run, idle=0) == []
    lock.release()
    assert [event.made for event in watched(run)] == [True]


def test_two_saves_of_one_step_do_not_share_a_directory(run: Path) -> None:
    """Lightning adds `-v1` to the name of a second save of a step, and accelerate counts epochs as well. Neither model
    replaces the other, also when the watcher is started again."""
    for name, step in (("epoch=0-step=4.ckpt", 1), ("epoch=0-step=4-v1.ckpt", 2)):
        (save(run, step)).rename(run / name)
    pattern, chosen = "{run}-models/{step}", WatchOptions(idle=5, interval=1)
    for again in (False, True):
        clock = Clock()
        events = list(Watch([str(run)], pattern, chosen, now=clock.now, pause=clock.pause).events())
        assert [event.made for event in events] == [*([] if again else [True]), False]
        assert "would replace that of" in events[-1].message
        assert "{name} in place of {step}" in events[-1].message
        first = events[-1].message.split("that of ")[1].split(",")[0]
        assert is_model_of(models(run) / "4", 2 if "-v1" in first else 1)


def test_a_run_whose_path_has_a_placeholder_in_it(tmp_path: Path) -> None:
    save(tmp_path / "my{step}", 7)
    made = watched(tmp_path / "my{step}")
    assert [event.output for event in made] == [str(tmp_path / "my{step}-models/checkpoint-7")]


def test_somebody_elses_directory_is_left_alone(run: Path) -> None:
    save(run, 1)
    notes = models(run) / "checkpoint-1" / "notes.txt"
    notes.parent.mkdir(parents=True)
    notes.write_text("mine")
    (event,) = watched(run)
    assert not event.made
    assert "the output directory is not empty (notes.txt)" in event.message
    assert [path.name for path in notes.parent.iterdir()] == ["notes.txt"]


def test_only_so_many_models_are_kept(run: Path) -> None:
    for step in (1, 2):
        save(run, step)
    other = consolidate(run / "checkpoint-1", models(run) / "mine").output
    events = watched(run, nothing, nothing, nothing, lambda: save(run, 3), keep=1)
    assert [event.name for event in events] == ["checkpoint-2", "checkpoint-3"]
    assert events[1].removed == (f"{models(run)}/checkpoint-2",)
    assert sorted(path.name for path in models(run).iterdir() if not path.name.startswith(".")) == [
        "checkpoint-3",
        "mine",
    ]
    assert os.path.isdir(other)
    assert watched(run, keep=1) == []


def test_shards_are_removed_if_asked_once_the_model_is_verified(run: Path) -> None:
    for step in (1, 2, 3):
        age(save(run, step), step)
    events = watched(run, prune=2, verify=True)
    assert [(event.name, event.made) for event in events] == [(f"checkpoint-{step}", True) for step in (1, 2, 3)]
    assert events[0].removed == (f"{run}/checkpoint-1",)
    assert [len([*run.glob(f"checkpoint-{step}/*/*optim*")]) for step in (1, 2, 3)] == [0, 2, 2]
    assert watched(run, prune=2) == []


def test_until_a_step(run: Path) -> None:
    for step in (1, 2):
        save(run, step)
    assert [event.name for event in watched(run, idle=None, until_step=2)] == ["checkpoint-1", "checkpoint-2"]


def test_a_clock_that_jumps_does_not_matter(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the time of day, nor the times of files."""
    monkeypatch.setattr(time, "time", lambda: 0.0)
    age(save(run, 1), 10**9)
    age(save(run, 2), -(10**9))
    assert [event.name for event in watched(run, lambda: age(save(run, 3), 0))] == [
        "checkpoint-1", "checkpoint-2", "checkpoint-3",
    ]  # fmt: skip
    assert watched(run) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"idle": "soon"}, "^idle takes a number of seconds; got 'soon'"),
        ({"interval": -1}, "^interval takes a number of seconds"),
        ({"until_step": "last"}, "^until_step takes a step"),
        ({"keep": 0}, "^keep takes a number, at least 1"),
        ({"prune": 0}, "^prune takes a number, at least 1"),
        ({"checkpoint": "last"}, "^checkpoint makes no sense here"),
        ({"restart": True}, "^restart=True makes no sense here"),
        ({"out": "models"}, "all models would be written to models"),
    ],
)
def test_options_that_make_no_sense(run: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadOption, match=message):
        zeroconsolidate.watch(run, **options)


class TestCommand:
    def test_a_directory_that_never_appears_is_an_error(self, tmp_path: Path) -> None:
        done = command("watch", tmp_path / "no-run", "--idle", "0", "--interval", "0.1")
        assert done.returncode == 2
        assert f"waiting for {tmp_path}/no-run, which does not exist yet" in done.stderr
        assert "there is no such directory; expected the directory of a run" in done.stderr.replace("\n  ", "; ")

    def test_one_without_saves_is_none(self, run: Path) -> None:
        run.mkdir()
        done = command("watch", run, "--idle", "0", "--interval", "0.1")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def test_a_line_for_each(self, run: Path, tmp_path: Path) -> None:
        for step in (1, 2):
            save(run, step)
        next(run.glob("checkpoint-2/*/*rank_1*optim*")).unlink()
        done = command("watch", run, tmp_path / "{step}", "--idle", "0", "--interval", "0.1", "-q")
        assert done.returncode == 3
        assert done.stdout.startswith("checkpoint-2: not converted: it is not complete")
        assert is_model_of(tmp_path / "1", 1)
        done = command("watch", run, "--idle", "0", "--interval", "0.1", "--json")
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert [(line["ok"], line["kind"], line["name"]) for line in lines] == [
            (True, "watched", "checkpoint-1"), (False, "watched", "checkpoint-2"),
        ]  # fmt: skip
        assert lines[0]["report"]["step"] == 1

    def test_a_directory_is_no_pattern(self, run: Path, tmp_path: Path) -> None:
        done = command("watch", run, tmp_path / "models")
        assert done.returncode == 2
        assert f"zeroconsolidate watch {run} '{tmp_path}/models/{{name}}'" in done.stderr

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_ends_it(self, run: Path, number: int) -> None:
        save(run, 1)
        watcher = subprocess.Popen(
            [sys.executable, "-m", "zeroconsolidate", "watch", run, "--interval", "0.1"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), preexec_fn=signals(),
        )  # fmt: skip
        assert watcher.stdout is not None
        assert watcher.stdout.readline().startswith("checkpoint-1: ")
        watcher.send_signal(number)
        _, said = watcher.communicate(timeout=30)
        assert watcher.returncode == 128 + number
        assert "the same command continues from here" in said
