"""The Trainer's callback, called as the Trainer calls it; real runs are in tests/live."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from run_directories import is_model_of, save

from zeroconsolidate import ConsolidateCallback
from zeroconsolidate.errors import BadOption
from zeroconsolidate.options.follow import BackgroundOptions
from zeroconsolidate.training.following import Following

if TYPE_CHECKING:
    from pathlib import Path


def state(step: int, *, best: str | None = None, is_main: bool = True) -> Any:
    return SimpleNamespace(global_step=step, best_model_checkpoint=best, is_world_process_zero=is_main, log_history=[])


def arguments(run: Path) -> Any:
    return SimpleNamespace(output_dir=str(run))


def test_it_is_a_callback_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    assert isinstance(ConsolidateCallback(), transformers.TrainerCallback)


@pytest.mark.parametrize(("when", "expected"), [("save", [1, 2, 3]), ("best", [2]), ("end", [3])])
def test_when(tmp_path: Path, when: Any, expected: list[int]) -> None:
    callback, run = ConsolidateCallback(when=when, niceness=0), tmp_path / "run"
    for step in (1, 2, 3):
        save(run, step)
        callback.on_save(arguments(run), state(step, best="elsewhere/checkpoint-2"), None)
        callback.on_step_end(arguments(run), state(step), None)
    last = state(3)
    callback.on_train_end(arguments(run), last, None)
    models = sorted(path.name for path in (tmp_path / "run-models").glob("checkpoint-*"))
    assert models == [f"checkpoint-{step}" for step in expected]
    assert all(is_model_of(tmp_path / "run-models" / f"checkpoint-{step}", step) for step in expected)
    assert last.log_history[-1]["consolidated"] == str(tmp_path / "run-models" / models[-1])
    assert last.log_history[-1]["consolidated_step"] == expected[-1]


def test_two_saves_of_one_step_do_not_share_a_directory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    following = Following(str(tmp_path / "{step}"), "save", BackgroundOptions())
    following.saved(str(save(tmp_path / "one", 4)), 4, is_best=False)
    other = save(tmp_path / "two", 4).rename(tmp_path / "two" / "step_4")
    following.saved(str(other), 4, is_best=False)
    assert [ended.error for ended in following.end(wait=True)] == [""]
    assert f"{other} was not converted: the model of step_4 would replace that of checkpoint-4" in caplog.text


def test_only_the_main_process_does_something(tmp_path: Path) -> None:
    callback, run = ConsolidateCallback(), tmp_path / "run"
    save(run, 1)
    for call in (callback.on_save, callback.on_step_end, callback.on_train_end):
        call(arguments(run), state(1, is_main=False), None)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_goes_wrong_is_noted_and_not_raised(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callback, ends = ConsolidateCallback(str(tmp_path / "{step}"), niceness=0), state(7)
    callback.on_save(arguments(tmp_path / "run"), state(7), None)
    callback.on_train_end(arguments(tmp_path / "run"), ends, None)
    assert "the save was removed before it could be converted" in ends.log_history[0]["consolidate_error"]
    assert "was not converted" in caplog.text


def test_without_waiting(tmp_path: Path) -> None:
    callback, run = ConsolidateCallback(wait=False, niceness=0), tmp_path / "run"
    save(run, 1)
    callback.on_save(arguments(run), state(1), None)
    callback.on_train_end(arguments(run), state(1), None)
    callback.wait()
    assert is_model_of(tmp_path / "run-models" / "checkpoint-1", 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"when": "always"}, "when must be 'save', 'best' or 'end'"),
        ({"dtipe": "bf16"}, "ConsolidateCallback has no option 'dtipe'; did you mean 'dtype'"),
        ({"out": "models"}, "all models would be written to models"),
        ({"dtype": "int8"}, "int8"),
        ({"rename": str.upper}, "cannot be passed to another process"),
    ],
)
def test_a_slip_is_found_before_training(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadOption, match=message):
        ConsolidateCallback(**options)
