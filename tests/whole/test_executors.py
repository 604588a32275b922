"""Workers of any executor make what one process makes, whatever becomes of them, and of who hands out the tasks."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import synthetic
from command import environment
from executors import Here
from fixtures import FIXTURES
from folders import contents
from interrupting import Interrupt

from zeroconsolidate import consolidate, consolidate_part, finish_parts, verify
from zeroconsolidate.errors import BadOption, DamagedFile, OutputFailed
from zeroconsolidate.options import Options
from zeroconsolidate.outputs import spread, tasks
from zeroconsolidate.outputs.tasks import Task, work
from zeroconsolidate.plan import stretches
from zeroconsolidate.write import part as parting

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MB = 1 << 20
BASES = FIXTURES / "models" / "_bases"
CASES: dict[str, tuple[Path, dict[str, Any]]] = {
    "fp32": (FIXTURES / "z3_w3", {}),
    "shards with digests": (FIXTURES / "z3_bf16", {"dtype": "fp16", "max_shard_size": "1KB", "digest": "sha256"}),
    "with the optimizer": (FIXTURES / "z2_bf16", {"optimizer": True, "digest": "sha256"}),
    "merged": (FIXTURES / "models" / "lora_z3", {"lora": "merge", "dtype": "bf16", "base": BASES / "llama"}),
    "DoRA": (FIXTURES / "models" / "dora_z2", {"lora": "merge", "base": BASES / "llama", "workers": 2}),
    "experts": (FIXTURES / "models" / "mixtral_z3", {"dtype": "bf16"}),
}
OPTIONS = {"max_shard_size": "5MB", "digest": "sha256"}


@pytest.fixture(autouse=True)
def small_tasks(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setattr(spread, "LEAST_BYTES", 2048 if "case" in request.fixturenames else MB)
    if "case" in request.fixturenames:
        monkeypatch.setattr(stretches, "CUT_BYTES", 64)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("big") / "checkpoint-5"
    synthetic.write(root, synthetic.values_of(synthetic.shapes_of(12)), stage=3, ranks=3)
    return root


@pytest.fixture(scope="module")
def straight(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("straight") / "model"
    consolidate(checkpoint, out, **OPTIONS)
    return contents(out)


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def spawned(count: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"))


@pytest.mark.parametrize("case", CASES)
def test_threads(case: str, tmp_path: Path) -> None:
    fixture, options = CASES[case]
    one = consolidate(fixture / "checkpoint", tmp_path / "one", **options)
    with ThreadPoolExecutor(3) as executor:
        report = consolidate(fixture / "checkpoint", tmp_path / "out", executor=executor, **options)
    assert contents(tmp_path / "out") == contents(tmp_path / "one")
    own = {"output", "seconds", "gb_per_second", "load_line"}
    assert {k: v for k, v in report.to_dict().items() if k not in own} == {
        k: v for k, v in one.to_dict().items() if k not in own
    }


def test_processes_and_one_progress(
    checkpoint: Path, tmp_path: Path, straight: dict[str, bytes], processes: ProcessPoolExecutor
) -> None:
    seen: list[tuple[int, int]] = []
    report = consolidate(
        checkpoint, tmp_path / "out", executor=processes, progress=lambda *at: seen.append(at), **OPTIONS
    )
    assert contents(tmp_path / "out") == straight
    copying = [done for done, total in seen if total == report.bytes_written]
    assert copying == sorted(copying)
    assert copying[-1] == report.bytes_written
    assert len(copying) > 8


def test_overflows_are_counted(tmp_path: Path) -> None:
    values = synthetic.values_of(synthetic.shapes_of(6))
    for value in values.values():
        value.view(-1)[:: max(value.numel() // 5, 1)] = 1e30
    synthetic.write(tmp_path / "checkpoint", values, stage=2, ranks=2)
    one = consolidate(tmp_path / "checkpoint", tmp_path / "one", dtype="fp16", check="none")
    report = consolidate(tmp_path / "checkpoint", tmp_path / "out", dtype="fp16", check="none", executor=Here())
    assert report.overflows == one.overflows


class TestLostWorkers:
    def test_one_is_killed(self, checkpoint: Path, tmp_path: Path, straight: dict[str, bytes]) -> None:
        """A process of a pool: the pool is broken then, and another is made."""
        pools: list[ProcessPoolExecutor] = []
        killed: list[int] = []

        def pool() -> ProcessPoolExecutor:
            pools.append(spawned(2))
            return pools[-1]

        def kill(done: int, total: int) -> None:
            if not killed:
                killed.append(done)
                os.kill(next(iter(pools[0]._processes)), signal.SIGKILL)

        consolidate(checkpoint, tmp_path / "out", executor=pool, progress=kill, **OPTIONS)
        assert len(pools) == 2
        assert killed[0] < 6 * MB
        assert contents(tmp_path / "out") == straight

    def test_without_another_executor_the_same_call_goes_on(
        self, checkpoint: Path, tmp_path: Path, straight: dict[str, bytes]
    ) -> None:
        killed: list[int] = []
        with spawned(1) as pool:

            def kill(done: int, total: int) -> None:
                if not killed:
                    killed.append(done)
                    os.kill(next(iter(pool._processes)), signal.SIGKILL)

            with pytest.raises(OutputFailed, match=r"the executor takes no more tasks: .*what is written is kept"):
                consolidate(checkpoint, tmp_path / "out", executor=pool, progress=kill, **OPTIONS)
        assert [p.name for p in (tmp_path / "out").iterdir()] == [".zeroconsolidate"]
        again = Here()
        report = consolidate(checkpoint, tmp_path / "out", executor=again, **OPTIONS)
        assert report.resumed_bytes > 0
        assert len(again.given) < 12
        assert contents(tmp_path / "out") == straight

    def test_tasks_are_given_out_again(self, checkpoint: Path, tmp_path: Path, straight: dict[str, bytes]) -> None:
        """A worker that writes half of its stretch, or all of it, and is never heard of again."""

        def ill(number: int, task: Task) -> None:
            if number % 3 == 0:
                with (tmp_path / "out/.zeroconsolidate/files" / task.stretch.file).open("r+b") as file:
                    file.seek(task.stretch.start)
                    file.write(os.urandom(task.stretch.nbytes // 2))
                raise ConnectionError("worker 7 has gone")
            if number % 5 == 0:
                work(task)
                raise TimeoutError

        executor = Here(ill)
        consolidate(checkpoint, tmp_path / "out", executor=executor, **OPTIONS)
        assert contents(tmp_path / "out") == straight
        assert len(executor.given) > len({task.stretch for task in executor.given})

    def test_tasks_that_are_cancelled_are_given_out_again(
        self, checkpoint: Path, tmp_path: Path, straight: dict[str, bytes]
    ) -> None:
        class Forgetful(Here):
            def submit(self, function: Any, task: Task) -> Future[Any]:  # type: ignore[override]
                if len(self.given) == 3:
                    self.given.append(task)
                    future: Future[Any] = Future()
                    future.cancel()
                    return future
                return super().submit(function, task)

        consolidate(checkpoint, tmp_path / "out", executor=Forgetful(), **OPTIONS)
        assert contents(tmp_path / "out") == straight

    def test_a_task_that_is_lost_every_time(self, checkpoint: Path, tmp_path: Path, straight: dict[str, bytes]) -> None:
        def ill(number: int, task: Task) -> None:
            if task.stretch.file.startswith("model-00002") and not task.stretch.start:
                raise ConnectionError("worker 7 has gone")

        message = "a task was lost 4 times, the last time with ConnectionError: worker 7 has gone; what is written is"
        with pytest.raises(OutputFailed, match=message) as raised:
            consolidate(checkpoint, tmp_path / "out", executor=Here(ill), **OPTIONS)
        assert "model-00002-of-00003.safetensors bytes 0 to" in str(raised.value)
        consolidate(checkpoint, tmp_path / "out", **OPTIONS)
        assert contents(tmp_path / "out") == straight

    def test_executors_that_break_every_time(self, checkpoint: Path, tmp_path: Path) -> None:
        def ill(number: int, task: Task) -> None:
            raise BrokenExecutor("out of memory")

        made: list[Here] = []

        def make() -> Here:
            made.append(Here(ill))
            return made[-1]

        with pytest.raises(OutputFailed, match="the executor takes no more tasks: out of memory"):
            consolidate(checkpoint, tmp_path / "out", executor=make)
        assert len(made) == 4

    def test_an_executor_that_was_shut_down(self, checkpoint: Path, tmp_path: Path) -> None:
        executor = ThreadPoolExecutor(1)
        executor.shutdown()
        with pytest.raises(OutputFailed, match="takes no more tasks: cannot schedule new futures after shutdown"):
            consolidate(checkpoint, tmp_path / "out", executor=executor)


DIES = """
import os, signal, sys
from concurrent.futures import ThreadPoolExecutor
from zeroconsolidate import consolidate
from zeroconsolidate.outputs import spread
from zeroconsolidate.write import stage
spread.LEAST_BYTES = 1 << 20
where = sys.argv[3]
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
def progress(done, total):
    if done > total // 2:
        die()
if where != "copying":
    true = getattr(stage, where, None) or getattr(stage.Stage, where)
    def after(*arguments, **how):
        true(*arguments, **how)
        die()
    setattr(stage if hasattr(stage, where) else stage.Stage, where, after)
with ThreadPoolExecutor(2) as executor:
    consolidate(sys.argv[1], sys.argv[2], executor=executor, max_shard_size="5MB", digest="sha256",
                progress=progress if where == "copying" else None)
"""


@pytest.mark.parametrize("where", ["copying", "adopt", "rename"])
def test_who_hands_out_tasks_is_killed(
    where: str, checkpoint: Path, tmp_path: Path, straight: dict[str, bytes]
) -> None:
    process = subprocess.run(
        [sys.executable, "-c", DIES, checkpoint, tmp_path / "out", where],
        env=environment(),
        check=False,
        capture_output=True,
        timeout=120,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    again = Here()
    report = consolidate(checkpoint, tmp_path / "out", executor=again, **OPTIONS)
    assert report.resumed_bytes > 0
    assert len(again.given) < 12
    assert contents(tmp_path / "out") == straight
    assert verify(tmp_path / "out", against=checkpoint).ok


class TestGoingOn:
    @pytest.fixture(autouse=True)
    def often(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(parting, "SYNC_BYTES", MB)

    def interrupted(self, checkpoint: Path, out: Path, after: int, executor: Executor | None) -> None:
        with pytest.raises(KeyboardInterrupt):
            consolidate(checkpoint, out, executor=executor, progress=Interrupt(after), **OPTIONS)

    @pytest.mark.parametrize("order", ["wop", "pwo", "wpw", "pwpw", "ww", "wpo", "po", "pow", "wpow"])
    def test_with_workers_and_without(
        self, order: str, checkpoint: Path, tmp_path: Path, straight: dict[str, bytes]
    ) -> None:
        """w: workers; p: one process; o: the file is cut or taken away meanwhile."""
        out = tmp_path / "out"
        for number, how in enumerate(order):
            if how == "o":
                staged = sorted((out / ".zeroconsolidate/files").iterdir())
                os.truncate(staged[0], 100)
                staged[-1].unlink()
            else:
                self.interrupted(checkpoint, out, (2 + 3 * number) * MB, Here() if how == "w" else None)
        consolidate(checkpoint, out, executor=Here() if order[-1] != "w" else None, **OPTIONS)
        assert contents(out) == straight

    def test_what_is_done_is_not_done_again(self, checkpoint: Path, tmp_path: Path, straight: dict[str, bytes]) -> None:
        self.interrupted(checkpoint, tmp_path / "out", 6 * MB, before := Here())
        # Tasks that were given out have been made, but for those of which nobody took note.
        report = consolidate(checkpoint, tmp_path / "out", executor=(after := Here()), **OPTIONS)
        assert report.resumed_bytes >= 6 * MB
        assert len(after.given) < len(before.given)
        assert contents(tmp_path / "out") == straight


class TestLate:
    """Tasks of a conversion that has ended, or was thrown away."""

    def late(self, checkpoint: Path, out: Path) -> list[Task]:
        executor = Here()
        with pytest.raises(KeyboardInterrupt):
            consolidate(checkpoint, out, executor=executor, progress=Interrupt(3 * MB), **OPTIONS)
        return executor.given

    def test_the_output_is_complete(self, checkpoint: Path, tmp_path: Path, straight: dict[str, bytes]) -> None:
        given = self.late(checkpoint, tmp_path / "out")
        consolidate(checkpoint, tmp_path / "out", **OPTIONS)
        with pytest.raises(OutputFailed, match="there is no conversion that this task belongs to"):
            work(given[0])
        assert contents(tmp_path / "out") == straight

    def test_it_was_started_over(self, checkpoint: Path, tmp_path: Path) -> None:
        given = self.late(checkpoint, tmp_path / "out")
        consolidate(checkpoint, tmp_path / "straight", dtype="bf16", max_shard_size="5MB")

        def late(number: int, task: Task) -> None:
            with pytest.raises(OutputFailed, match="there is no conversion that this task belongs to"):
                work(given[0])

        consolidate(checkpoint, tmp_path / "out", dtype="bf16", max_shard_size="5MB", restart=True, executor=Here(late))
        assert contents(tmp_path / "out") == contents(tmp_path / "straight")

    def test_starting_over_waits_for_who_opens_files(
        self, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, straight: dict[str, bytes]
    ) -> None:
        given, begun, events = self.late(checkpoint, tmp_path / "out"), threading.Event(), []
        true = tasks.opened

        def slow(*arguments: Any) -> int:
            begun.set()
            time.sleep(0.5)
            events.append("opened")
            return true(*arguments)

        with monkeypatch.context() as patched:
            patched.setattr(tasks, "opened", slow)
            with ThreadPoolExecutor(1) as pool:
                late = pool.submit(work, given[0])
                begun.wait(10)
                consolidate(
                    checkpoint,
                    tmp_path / "out",
                    restart=True,
                    status=lambda what: events.append(what) if what == "copying" else None,
                    **OPTIONS,
                )
                late.result(10)
        assert events[0] == "opened"
        assert contents(tmp_path / "out") == straight

    def test_another_version(self, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        given = self.late(checkpoint, tmp_path / "out")
        monkeypatch.setattr(tasks, "__version__", "0.0.1")
        with pytest.raises(
            BadOption, match=r"a worker has another version of zeroconsolidate; expected .*, got 0.0.1 on"
        ):
            work(given[0])

    def test_another_plan_of_that_name(self, checkpoint: Path, tmp_path: Path) -> None:
        given = self.late(checkpoint, tmp_path / "out")
        (tmp_path / "out/.zeroconsolidate/tasks" / given[0].plan).write_bytes(b"other")
        tasks._read.cache_clear()
        with pytest.raises(OutputFailed, match="the plan is not the one that the task belongs to"):
            work(given[0])


def test_errors_of_workers_are_ours(checkpoint: Path, tmp_path: Path, processes: ProcessPoolExecutor) -> None:
    import shutil

    shutil.copytree(checkpoint, tmp_path / "checkpoint")

    def cut(what: str) -> None:
        if what == "copying":
            os.truncate(next((tmp_path / "checkpoint").glob("*/*rank_1*optim*")), 5000)

    with pytest.raises(DamagedFile, match="the file ends too early"):
        consolidate(tmp_path / "checkpoint", tmp_path / "out", executor=processes, status=cut)


def test_workers_that_do_not_have_the_package(checkpoint: Path, tmp_path: Path) -> None:
    def ill(number: int, task: Task) -> None:
        raise ModuleNotFoundError("No module named 'zeroconsolidate'")

    with pytest.raises(BadOption, match="the workers cannot run zeroconsolidate: ModuleNotFoundError"):
        consolidate(checkpoint, tmp_path / "out", executor=Here(ill))


def test_the_plan_is_sent_once_and_a_task_is_small(checkpoint: Path, tmp_path: Path) -> None:
    executor = Here()
    consolidate(checkpoint, tmp_path / "out", executor=executor)
    assert max(len(pickle.dumps(task)) for task in executor.given) < 1000
    assert not (tmp_path / "out/.zeroconsolidate").exists()


def test_a_complete_file_that_was_cut_is_never_taken_for_complete_again(
    checkpoint: Path, tmp_path: Path, straight: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made as long as it was, it would be full of zeros, and the journal says that it is done."""
    monkeypatch.setattr(parting, "SYNC_BYTES", MB)
    with pytest.raises(KeyboardInterrupt):
        consolidate(checkpoint, tmp_path / "out", progress=Interrupt(6 * MB), **OPTIONS)
    first = tmp_path / "out/.zeroconsolidate/files/model-00001-of-00003.safetensors"
    os.truncate(first, first.stat().st_size - 1000)

    def ill(number: int, task: Task) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        consolidate(checkpoint, tmp_path / "out", executor=Here(ill), **OPTIONS)
    consolidate(checkpoint, tmp_path / "out", **OPTIONS)
    assert contents(tmp_path / "out") == straight


class TestElsewhere:
    """Workers that see checkpoint and output under another path: `--map`."""

    def moved(self, checkpoint: Path, tmp_path: Path) -> Path:
        """A second way to the same folders, which are not at their first while workers are at work."""
        (tmp_path / "here").mkdir()
        import shutil

        shutil.copytree(checkpoint, tmp_path / "here/checkpoint")
        return tmp_path / "here"

    def test_workers(self, checkpoint: Path, tmp_path: Path, straight: dict[str, bytes]) -> None:
        here, there = self.moved(checkpoint, tmp_path), tmp_path / "there"

        class Moved(Here):
            def submit(self, function: Any, task: Task) -> Future[Any]:  # type: ignore[override]
                here.rename(there)
                try:
                    return super().submit(function, task)
                finally:
                    there.rename(here)

        given = [f"{here}={there}"]
        consolidate(here / "checkpoint", here / "out", executor=Moved(), map=given, **OPTIONS)
        assert contents(here / "out") == straight
        with pytest.raises(OutputFailed, match="there is no conversion that this task belongs to"):
            consolidate(here / "checkpoint", here / "other", executor=Moved(), **OPTIONS)

    def test_relative_paths_are_those_of_who_hands_out(
        self, checkpoint: Path, tmp_path: Path, straight: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        here = self.moved(checkpoint, tmp_path)
        monkeypatch.chdir(here)

        class Away(Here):
            def submit(self, function: Any, task: Task) -> Future[Any]:  # type: ignore[override]
                with monkeypatch.context() as patched:
                    patched.chdir("/")
                    return super().submit(function, task)

        consolidate("checkpoint", "out", executor=Away(), **OPTIONS)
        assert contents(here / "out") == straight

    def test_parts(self, checkpoint: Path, tmp_path: Path, straight: dict[str, bytes]) -> None:
        here, there = self.moved(checkpoint, tmp_path), tmp_path / "there"
        consolidate_part(here / "checkpoint", here / "out", "1/2", **OPTIONS)
        here.rename(there)
        with pytest.raises(BadOption, match="an interrupted conversion with other options or input"):
            consolidate_part(there / "checkpoint", there / "out", "2/2", **OPTIONS)
        consolidate_part(there / "checkpoint", there / "out", "2/2", map=f"{here}={there}", **OPTIONS)
        finish_parts(there / "checkpoint", there / "out", map=f"{here}={there}", **OPTIONS)
        assert contents(there / "out") == straight

    @pytest.mark.parametrize("given", ["/scratch", "scratch=/mnt", "/scratch=mnt", "=", ""])
    def test_what_maps_nothing(self, given: str) -> None:
        with pytest.raises(BadOption, match="--map is OLD=NEW, both absolute paths"):
            Options(map=given)

    def test_the_longest_fits(self) -> None:
        places = Options(map=["/a=/x", "/a/b=/y", "/=/root"]).places
        assert [places.seen(path) for path in ("/a/c", "/a/b/c", "/a", "/ab", "/a/bc")] == [
            "/x/c",
            "/y/c",
            "/x",
            "/root/ab",
            "/x/bc",
        ]
