"""A conversion in a process of its own: it waits for all ranks, and whatever becomes of it, its caller is told."""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import sys
import time
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING

import pytest
from command import environment, python
from run_directories import hide, is_model_of, save

from zeroconsolidate import consolidate_in_background, inspect_run
from zeroconsolidate.errors import BadOption, MissingFiles, OutputFailed, SaveGone
from zeroconsolidate.options import BackgroundOptions
from zeroconsolidate.training import background, worker
from zeroconsolidate.training.job import Job, plain_options
from zeroconsolidate.training.queue import Queue

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = 60


def until_it_ends(pid: int) -> None:
    """Wait for a process that is no child."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    assert select.select([descriptor], [], [], SECONDS)[0]
    os.close(descriptor)


def test_a_save_becomes_a_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "zeroconsolidate")
    run = consolidate_in_background(save(tmp_path, 3), tmp_path / "model", verify=True, niceness=0)
    report = run.result(SECONDS)
    assert (report.step, report.output, run.done, run.wait()) == (3, str(tmp_path / "model"), True, True)
    assert is_model_of(tmp_path / "model", 3)
    assert any("no config.json and no tokenizer" in record.message for record in caplog.records)
    assert {record.levelname for record in caplog.records} >= {"WARNING"}


def environment_of(pid: int) -> dict[bytes, bytes]:
    """What a process was started with. For a moment after its start there is nothing to read."""
    for _ in range(SECONDS * 100):
        with open(f"/proc/{pid}/environ", "rb") as file:
            content = file.read()
        if content:
            break
        time.sleep(0.01)
    return dict(each.split(b"=", 1) for each in content.split(b"\0") if b"=" in each)


def test_it_sees_no_accelerator_and_is_no_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that waits for a rank, seen from outside."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    folder = save(tmp_path, 1)
    hidden = hide(next(folder.glob("*/*rank_1*optim*")), tmp_path / "hidden")
    run = consolidate_in_background(folder, tmp_path / "model", niceness=0)
    pid = run._process.pid
    found = environment_of(pid)
    assert found[b"CUDA_VISIBLE_DEVICES"] == b""
    assert not {b"RANK", b"WORLD_SIZE"} & found.keys()
    assert os.getsid(pid) == pid
    assert not run.wait(0)
    with pytest.raises(TimeoutError):
        run.result(0)
    hide(hidden, folder / "global_step1")
    assert run.result(SECONDS).step == 1
    assert is_model_of(tmp_path / "model", 1)


def test_it_is_modest() -> None:
    code = """
import os
from zeroconsolidate.training.worker import _be_modest
_be_modest(19)
print(os.getpriority(os.PRIO_PROCESS, 0), open("/proc/self/oom_score_adj").read())
"""
    assert python(code).stdout.split() == ["19", "1000"]
    assert BackgroundOptions().niceness == 19


def test_cancelled(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-1").mkdir()
    run = consolidate_in_background(tmp_path / "checkpoint-1", tmp_path / "model", niceness=0)
    run.cancel()
    with pytest.raises(CancelledError, match="was cancelled"):
        run.result(SECONDS)
    assert not (tmp_path / "model").exists()
    run.cancel()  # it has ended


def test_killed(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    hidden = hide(next(folder.glob("*/*rank_1*optim*")), tmp_path / "hidden")
    run = consolidate_in_background(folder, tmp_path / "model", niceness=0)
    os.kill(run._process.pid, signal.SIGKILL)
    with pytest.raises(OutputFailed, match="the background process was killed by signal 9; the same call continues"):
        run.result(SECONDS)
    assert not (tmp_path / "model").exists()
    hide(hidden, folder / "global_step1")
    consolidate_in_background(folder, tmp_path / "model", niceness=0).result(SECONDS)
    assert is_model_of(tmp_path / "model", 1)


def test_errors_are_those_of_consolidate(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match='include="nothing" matches no tensor') as caught:
        consolidate_in_background(save(tmp_path, 1), tmp_path / "model", include="nothing", niceness=0).result(SECONDS)
    assert caught.value.remedy
    with pytest.raises(SaveGone):
        consolidate_in_background(tmp_path / "gone", tmp_path / "model", niceness=0).result(SECONDS)


def test_it_outlives_the_training(tmp_path: Path) -> None:
    """Even one that is killed."""
    folder = save(tmp_path, 1)
    hidden = hide(next(folder.glob("*/*rank_1*optim*")), tmp_path / "hidden")
    training = f"""
import os, signal, zeroconsolidate
run = zeroconsolidate.consolidate_in_background({str(folder)!r}, {str(tmp_path / "model")!r}, niceness=0)
print(run._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = python(training)
    assert done.returncode == -signal.SIGKILL
    hide(hidden, folder / "global_step1")
    until_it_ends(int(done.stdout))
    assert is_model_of(tmp_path / "model", 1)


def test_several_at_once_for_one_output(tmp_path: Path) -> None:
    """One makes the model, the others find that somebody does, or make it anew: it is whole whatever happens."""
    folder = save(tmp_path, 1)
    runs = [consolidate_in_background(folder, tmp_path / "model", niceness=0) for _ in range(3)]
    assert all(run.wait(SECONDS) for run in runs)
    assert any(run._error is None for run in runs)
    assert is_model_of(tmp_path / "model", 1)


def test_not_all_ranks_write(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    next(folder.glob("*/*rank_1*optim*")).unlink()
    now = iter(range(100))
    job = Job(paths=(str(folder),), output=str(tmp_path / "model"), options={"patience": 5.0})
    with pytest.raises(
        MissingFiles, match="not all ranks have written checkpoint-1 after 5 s: files of ranks are"
    ) as e:
        worker.run(job, now=lambda: next(now), pause=lambda _: None)
    assert [name.rpartition("_rank_1_")[1] for name in e.value.files] == ["_rank_1_"]
    assert not (tmp_path / "model").exists()


def test_a_folder_of_tags(tmp_path: Path) -> None:
    import zero_model

    for step in (1, 2):
        zero_model.save(zero_model.example(2, step=step), tmp_path / "run", f"global_step{step}")
    for options, step in (({}, 2), ({"tag": "global_step1"}, 1)):
        job = Job(paths=(str(tmp_path / "run"),), output=str(tmp_path / f"model-{step}"), options=options)
        assert worker.run(job, pause=lambda _: None).report.step == step


@pytest.mark.parametrize("options", [{"rename": str.upper}, {"progress": print, "rename": str.lower}])
def test_a_function_cannot_be_passed(tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(BadOption, match="rename cannot be passed to another process"):
        consolidate_in_background(tmp_path, tmp_path / "model", **options)


def test_options_arrive_as_they_were(tmp_path: Path) -> None:
    given = {"dtype": "bf16", "base": tmp_path, "include": ["a", "b"], "verify": True, "keep": 2, "patience": 5.0}
    job = Job(paths=("in",), output="out", options=plain_options(BackgroundOptions(**given)))
    assert job.options == given | {"base": str(tmp_path)}
    assert BackgroundOptions(**Job.from_json(job.to_json()).options) == BackgroundOptions(
        **given | {"base": str(tmp_path)}
    )


def test_one_after_the_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two saves in quick succession, and one that cannot be converted between them."""
    caplog.set_level(logging.INFO, "zeroconsolidate")
    queue = Queue(BackgroundOptions(niceness=0))
    first, third = save(tmp_path / "run", 1), save(tmp_path / "run", 3)
    for step, folder in ((1, first), (2, tmp_path / "run" / "checkpoint-2"), (3, third)):
        queue.add(str(folder), str(tmp_path / str(step)), step)
    assert queue.ended() == []
    assert not queue.is_empty
    found = queue.wait()
    assert [(each.step, bool(each.error)) for each in found] == [(1, False), (2, True), (3, False)]
    assert queue.is_empty
    assert is_model_of(tmp_path / "1", 1)
    assert is_model_of(tmp_path / "3", 3)
    assert f"{tmp_path}/run/checkpoint-2 was not converted: the save was removed" in caplog.text


def test_a_system_that_starts_no_process_is_only_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def start(_: Job) -> background.BackgroundRun:
        raise OutputFailed("no process could be started: no more processes")

    queue = Queue(BackgroundOptions(niceness=0), start)
    queue.add(str(tmp_path), str(tmp_path / "model"), 1)
    assert [each.error for each in queue.wait()] == ["no process could be started: no more processes"]
    assert "was not converted" in caplog.text


def test_a_full_disk(tmp_path: Path) -> None:
    """A limit on the size of files does what a full disk does: writing fails in the middle."""
    folder = save(tmp_path / "run", 1)
    code = """
import resource, signal, sys
from zeroconsolidate.training.job import Job
from zeroconsolidate.training.worker import run
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))
run(Job(paths=(sys.argv[1],), output=sys.argv[2], options={}), pause=lambda _: None)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, folder, tmp_path / "model"],
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "OutputFailed" in done.stderr
    assert not (tmp_path / "model" / "model.safetensors").exists()
    assert inspect_run(tmp_path / "run").newest.converted == ()
    consolidate_in_background(folder, tmp_path / "model", niceness=0).result(SECONDS)
    assert is_model_of(tmp_path / "model", 1)
