"""Outputs in S3 that several processes send, in parts or as workers of an executor, whatever becomes of any of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from command import environment
from executors import Here
from fixtures import FIXTURES
from moto.s3 import models
from s3_server import DENIED, DROPPED, EXPIRED, SERVER_ERROR, SLOW_DOWN, Fault, Request, some
from small_uploads import PART, spawned

from zeroconsolidate import consolidate, consolidate_part, finish_parts, verify
from zeroconsolidate.errors import BadOption, OutputBusy, OutputExists, OutputFailed, StoreFailed
from zeroconsolidate.integrations import object_stores, store_calls
from zeroconsolidate.integrations.object_uploads import S3Uploads
from zeroconsolidate.outputs import spread
from zeroconsolidate.outputs.tasks import Task, work
from zeroconsolidate.write import remote_portion, remote_sending, remote_spread, remote_stage, uploads

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from s3_server import Store

CHECKPOINT = FIXTURES / "trainer_zero3_tied/checkpoint"
STAGED = "model/.zeroconsolidate/"
ALL_FAULTS = [SERVER_ERROR, SLOW_DOWN, DROPPED, Fault(keep_bytes=10)]
OPTIONS: list[dict[str, Any]] = [{}, {"dtype": "bf16"}, {"max_shard_size": "20KB"}, {"optimizer": True}]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """56 KB of weights are seven parts of an upload, and as many tasks."""
    for module in (uploads, remote_sending, remote_portion, remote_spread):
        monkeypatch.setattr(module, "part_bytes_of", lambda _: PART)
    monkeypatch.setattr(uploads, "NOTED_BYTES", PART)
    monkeypatch.setattr(remote_stage, "NOTED_SECONDS", 0.0)
    monkeypatch.setattr(spread, "LEAST_BYTES", PART)
    monkeypatch.setattr(models, "S3_UPLOAD_PART_MIN_SIZE", 1)
    monkeypatch.setattr(store_calls, "DEADLINE_SECONDS", 20)


def same(s3: Store, here: Path) -> None:
    """The bucket has the files of a directory and nothing else: no upload, nothing staged."""
    files = {str(path.relative_to(here)): path.read_bytes() for path in here.rglob("*") if path.is_file()}
    assert {name.removeprefix("model/"): s3.get(name) for name in s3.objects() if name.startswith("model/")} == files
    assert s3.uploads() == []


def visible(s3: Store) -> list[str]:
    return [key for key in s3.objects() if key.startswith("model/") and not key.startswith(STAGED)]


def numbers_sent(s3: Store, since: int = 0) -> list[int]:
    """Of which parts of uploads, by their numbers."""
    requests = [request for request in s3.requests[since:] if request.method == "PUT"]
    return sorted(int(request.query["partNumber"][0]) for request in requests if "partNumber" in request.query)


def refusing(*numbers: int, fault: Fault = EXPIRED) -> Callable[[Request], Fault | None]:
    return lambda request: fault if request.query.get("partNumber", ["0"])[0] in map(str, numbers) else None


class TestParts:
    @pytest.mark.parametrize(
        ("options", "count"),
        [({}, 1), ({}, 16), *((options, 3) for options in OPTIONS[1:])],
        ids=str,
    )
    def test_they_make_what_one_command_makes(
        self, options: dict[str, Any], count: int, s3: Store, tmp_path: Path
    ) -> None:
        consolidate(CHECKPOINT, tmp_path / "here", **options)
        written = 0
        for number in sorted(range(1, count + 1), key=lambda n: n * 7 % (count + 1)):
            report = consolidate_part(CHECKPOINT, s3.url("model"), f"{number}/{count}", **options)
            written += report.bytes_written
            assert visible(s3) == []
        assert written == report.total_bytes
        report = finish_parts(CHECKPOINT, s3.url("model"), **options)
        same(s3, tmp_path / "here")
        assert report.parts == count
        assert report.checks[-1] == "SHA-256 of every part, by the store"
        assert verify(s3.url("model"), against=CHECKPOINT).ok

    def test_at_the_same_time(self, s3: Store, tmp_path: Path) -> None:
        consolidate(CHECKPOINT, tmp_path / "here")
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda n: consolidate_part(CHECKPOINT, s3.url("model"), f"{n}/4"), range(1, 5)))
        finish_parts(CHECKPOINT, s3.url("model"))
        same(s3, tmp_path / "here")

    @pytest.mark.parametrize("share", [0.1, 0.25])
    def test_a_store_that_fails_now_and_then(self, share: float, s3: Store, tmp_path: Path) -> None:
        consolidate(CHECKPOINT, tmp_path / "here", max_shard_size="20KB")
        s3.rule = some(share, ALL_FAULTS, 3)
        for number in (2, 1, 3):
            consolidate_part(CHECKPOINT, s3.url("model"), f"{number}/3", max_shard_size="20KB")
        finish_parts(CHECKPOINT, s3.url("model"), max_shard_size="20KB")
        s3.rule = lambda _: None
        same(s3, tmp_path / "here")

    def test_credentials_that_expire_midway(self, s3: Store, tmp_path: Path) -> None:
        consolidate(CHECKPOINT, tmp_path / "here")
        consolidate_part(CHECKPOINT, s3.url("model"), "1/2")
        s3.rule = refusing(6)
        with pytest.raises(StoreFailed, match=r"refuses access: .*ExpiredToken.*then run the same command again"):
            consolidate_part(CHECKPOINT, s3.url("model"), "2/2")
        s3.rule = lambda _: None
        assert visible(s3) == []
        with pytest.raises(BadOption, match=r"1 of 2 parts are not finished: 2/2 \([1-9][0-9] % written\)"):
            finish_parts(CHECKPOINT, s3.url("model"))
        before = len(s3.requests)
        report = consolidate_part(CHECKPOINT, s3.url("model"), "2/2")
        assert report.resumed_bytes >= PART
        assert numbers_sent(s3, before)[0] > 4
        finish_parts(CHECKPOINT, s3.url("model"))
        same(s3, tmp_path / "here")

    def test_a_part_that_is_written_again_sends_nothing(self, s3: Store) -> None:
        consolidate_part(CHECKPOINT, s3.url("model"), "1/2")
        before = len(s3.requests)
        report = consolidate_part(CHECKPOINT, s3.url("model"), "1/2")
        assert report.resumed_bytes == report.bytes_written
        assert numbers_sent(s3, before) == []

    def test_notes_hold_back_no_bytes(self, s3: Store, tmp_path: Path) -> None:
        """The first that says what the store has waits until the last bytes are under way; the part waits for all."""
        consolidate(CHECKPOINT, tmp_path / "here")
        under_way, waited = threading.Event(), list[bool]()

        def rule(request: Request) -> None:
            if request.query.get("partNumber") == ["7"]:
                under_way.set()
            if request.method == "PUT" and request.key == f"{STAGED}parts/1-of-1":
                waited.append(len(waited) == 0 or under_way.wait(20))

        s3.rule = rule
        # Slow enough that the store has parts while others are made.
        consolidate_part(CHECKPOINT, s3.url("model"), "1/1", progress=lambda done, total: time.sleep(0.05))
        assert len(waited) > 1
        assert all(waited)
        s3.rule = lambda _: None
        finish_parts(CHECKPOINT, s3.url("model"))
        same(s3, tmp_path / "here")

    def test_a_process_that_is_killed(self, s3: Store, tmp_path: Path) -> None:
        consolidate(CHECKPOINT, tmp_path / "here")
        held = threading.Event()

        def rule(request: Request) -> Fault | None:
            if int(request.query.get("partNumber", ["0"])[0]) <= 5:
                return None
            held.set()
            return SLOW_DOWN

        s3.rule = rule
        program = "import sys, small_uploads as s; s.begin(); from zeroconsolidate.cli import main; sys.exit(main())"
        command = [sys.executable, "-c", program, "convert", str(CHECKPOINT), s3.url("model"), "--part", "2/2"]
        process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not held.wait(0.02) and process.poll() is None:
            pass
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        s3.rule = lambda _: None
        object_stores.store_of(s3.url()).forget()
        for number in (1, 2):
            consolidate_part(CHECKPOINT, s3.url("model"), f"{number}/2")
        finish_parts(CHECKPOINT, s3.url("model"))
        same(s3, tmp_path / "here")

    def test_who_finishes_may_be_stopped_at_any_request(self, s3: Store, tmp_path: Path) -> None:
        consolidate(CHECKPOINT, tmp_path / "here")
        stopped = 0
        for kept in range(6, 50, 14):
            s3.empty()
            object_stores.store_of(s3.url()).forget()
            for number in (1, 2):
                consolidate_part(CHECKPOINT, s3.url("model"), f"{number}/2")
            first = len(s3.requests)
            s3.rule = lambda request, last=first + kept: DENIED if request.number >= last else None
            try:
                finish_parts(CHECKPOINT, s3.url("model"))
            except StoreFailed:
                stopped += 1
            s3.rule = lambda _: None
            object_stores.store_of(s3.url()).forget()
            if "model/zeroconsolidate.json" not in visible(s3):
                finish_parts(CHECKPOINT, s3.url("model"))
                same(s3, tmp_path / "here")
        assert stopped >= 2

    def test_two_that_begin_at_the_same_moment(
        self, s3: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Both find nothing and begin uploads: those of the second are given up."""
        consolidate(CHECKPOINT, tmp_path / "here")
        true = S3Uploads.create

        def late(self: S3Uploads, url: str, data: bytes) -> None:
            monkeypatch.setattr(S3Uploads, "create", true)
            consolidate_part(CHECKPOINT, s3.url("model"), "1/2")
            assert len(s3.uploads()) == 2
            true(self, url, data)

        monkeypatch.setattr(S3Uploads, "create", late)
        consolidate_part(CHECKPOINT, s3.url("model"), "2/2")
        assert len(s3.uploads()) == 1
        finish_parts(CHECKPOINT, s3.url("model"))
        same(s3, tmp_path / "here")

    def test_a_store_that_gives_a_name_to_the_last(
        self, s3: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whoever was first finds the journal of another, and nothing it has sent counts."""
        consolidate(CHECKPOINT, tmp_path / "here")

        def late(self: S3Uploads, url: str, data: bytes) -> None:
            monkeypatch.setattr(S3Uploads, "create", S3Uploads.put)
            consolidate_part(CHECKPOINT, s3.url("model"), "1/2")
            self.put(url, data)

        monkeypatch.setattr(S3Uploads, "create", late)
        consolidate_part(CHECKPOINT, s3.url("model"), "2/2")
        with pytest.raises(BadOption, match=r"1 of 2 parts are not finished: 1/2 \(not begun\)"):
            finish_parts(CHECKPOINT, s3.url("model"))
        consolidate_part(CHECKPOINT, s3.url("model"), "1/2")
        finish_parts(CHECKPOINT, s3.url("model"))
        same(s3, tmp_path / "here")

    def test_another_journal_in_the_middle(self, s3: Store) -> None:
        def rule(request: Request) -> None:
            if "partNumber" in request.query:
                s3.direct("PUT", f"{STAGED}journal", b"")

        s3.rule = rule
        with pytest.raises(OutputBusy, match="the conversion that this part belongs to is no longer there"):
            consolidate_part(CHECKPOINT, s3.url("model"), "1/2")

    def test_abort(self, s3: Store) -> None:
        consolidate_part(CHECKPOINT, s3.url("model"), "1/2")
        assert s3.uploads()
        command = [sys.executable, "-m", "zeroconsolidate", "convert", str(CHECKPOINT), s3.url("model"), "--abort"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert (s3.uploads(), s3.objects()) == ([], [])

    def test_an_upload_that_a_rule_of_the_bucket_removed(self, s3: Store, tmp_path: Path) -> None:
        """Begun again it would lack what other parts have sent."""
        consolidate_part(CHECKPOINT, s3.url("model"), "1/2")
        s3.give_up()
        for part in ("1/2", "2/2"):
            with pytest.raises(OutputFailed, match=r"the store has removed the unfinished upload; start over: zero"):
                consolidate_part(CHECKPOINT, s3.url("model"), part)
        with pytest.raises(BadOption, match="not finished"):
            finish_parts(CHECKPOINT, s3.url("model"))

    @pytest.mark.parametrize("how", ["gone", "another size"])
    def test_a_store_that_has_other_parts_than_were_sent(self, how: str, s3: Store) -> None:
        for number in (1, 2):
            consolidate_part(CHECKPOINT, s3.url("model"), f"{number}/2")
        [(key, upload)] = s3.begun()
        if how == "gone":
            s3.direct("DELETE", f"{key}?uploadId={upload}")
        else:
            s3.direct("PUT", f"{key}?partNumber=3&uploadId={upload}", b"short")
        message = {"gone": "has removed the unfinished upload", "another size": r"1 of 7 .* the first of them part 3"}[
            how
        ]
        with pytest.raises(
            OutputFailed, match=rf"{message}.*start over: zeroconsolidate convert CHECKPOINT \S+ --abort"
        ):
            finish_parts(CHECKPOINT, s3.url("model"))
        assert visible(s3) == []


class TestRefused:
    def test_nothing_to_finish(self, s3: Store) -> None:
        with pytest.raises(BadOption, match="has no parts to finish"):
            finish_parts(CHECKPOINT, s3.url("model"))
        assert s3.objects() == []

    def test_parts_that_are_not_there(self, s3: Store) -> None:
        consolidate_part(CHECKPOINT, s3.url("model"), "2/3")
        with pytest.raises(BadOption, match=r"2 of 3 parts are not finished: 1/3 \(not begun\), 3/3 \(not begun\)"):
            finish_parts(CHECKPOINT, s3.url("model"))
        assert f"{STAGED}parts/2-of-3" in s3.objects()

    def test_other_options_and_numbers(self, s3: Store) -> None:
        consolidate_part(CHECKPOINT, s3.url("model"), "1/2")
        with pytest.raises(BadOption, match=r"dtype was 'fp32', is 'bf16'.*convert CHECKPOINT s3://\S+ --abort"):
            consolidate_part(CHECKPOINT, s3.url("model"), "2/2", dtype="bf16")
        with pytest.raises(BadOption, match="it is being made in 2 parts, not in 3 parts"):
            consolidate_part(CHECKPOINT, s3.url("model"), "1/3")
        with pytest.raises(BadOption, match="it is being made in 2 parts, not in one piece"):
            consolidate(CHECKPOINT, s3.url("model"))

    def test_a_conversion_in_one_piece(self, s3: Store) -> None:
        s3.rule = refusing(5)
        with pytest.raises(StoreFailed):
            consolidate(CHECKPOINT, s3.url("model"))
        s3.rule = lambda _: None
        with pytest.raises(BadOption, match="it is being made in one piece, not in 2 parts"):
            consolidate_part(CHECKPOINT, s3.url("model"), "1/2")
        with pytest.raises(BadOption, match="an interrupted conversion that is not made in parts"):
            finish_parts(CHECKPOINT, s3.url("model"))

    def test_an_output_that_exists(self, s3: Store, tmp_path: Path) -> None:
        s3.direct("PUT", "model/notes.txt", b"mine")
        with pytest.raises(OutputExists):
            consolidate_part(CHECKPOINT, s3.url("model"), "1/2")
        assert (s3.objects(), s3.uploads()) == (["model/notes.txt"], [])

    def test_digests(self, s3: Store) -> None:
        for call in (
            lambda: consolidate_part(CHECKPOINT, s3.url("model"), "1/2", digest="sha256"),
            lambda: consolidate(CHECKPOINT, s3.url("model"), executor=Here(), digest="sha256"),
        ):
            with pytest.raises(BadOption, match="digest needs the bytes of files that other processes have sent"):
                call()
        assert s3.objects() == []

    def test_what_cannot_begin_leaves_nothing(self, s3: Store) -> None:
        s3.rule = lambda request: DENIED if request.method == "PUT" else None
        with pytest.raises(StoreFailed):
            consolidate_part(CHECKPOINT, s3.url("model"), "1/2", max_shard_size="20KB")
        s3.rule = lambda _: None
        assert (s3.objects(), s3.uploads()) == ([], [])


class TestWorkers:
    @pytest.mark.parametrize("options", OPTIONS, ids=str)
    def test_they_make_what_one_process_makes(self, options: dict[str, Any], s3: Store, tmp_path: Path) -> None:
        consolidate(CHECKPOINT, tmp_path / "here", **options)
        seen: list[list[str]] = []
        executor = Here(lambda number, task: seen.append(visible(s3)))
        consolidate(CHECKPOINT, s3.url("model"), executor=executor, **options)
        same(s3, tmp_path / "here")
        assert len(executor.given) >= 3
        assert not any(seen)

    def test_processes_one_of_which_is_killed(self, s3: Store, tmp_path: Path) -> None:
        """The checkpoint in the store, too."""
        url = s3.put(CHECKPOINT, "run")
        consolidate(url, tmp_path / "here")
        pools = []

        def pool() -> Any:
            pools.append(spawned(2))
            return pools[-1]

        killed = []

        def progress(done: int, total: int) -> None:
            if not killed and done:
                killed.append(next(iter(pools[0]._processes)))
                os.kill(killed[0], signal.SIGKILL)

        s3.rule = lambda request: Fault(pause_seconds=0.1) if "partNumber" in request.query else None
        consolidate(url, s3.url("model"), executor=pool, progress=progress)
        assert killed
        s3.rule = lambda _: None
        same(s3, tmp_path / "here")

    @pytest.mark.parametrize("share", [0.1, 0.25])
    def test_a_store_that_fails_now_and_then(self, share: float, s3: Store, tmp_path: Path) -> None:
        consolidate(CHECKPOINT, tmp_path / "here")
        s3.rule = some(share, ALL_FAULTS, 5)
        with ThreadPoolExecutor(3) as pool:
            consolidate(CHECKPOINT, s3.url("model"), executor=pool)
        s3.rule = lambda _: None
        same(s3, tmp_path / "here")

    def test_credentials_that_expire_midway(self, s3: Store, tmp_path: Path) -> None:
        consolidate(CHECKPOINT, tmp_path / "here")
        s3.rule = refusing(5)
        with pytest.raises(StoreFailed, match=r"ExpiredToken.*the same command continues; with --abort it removes"):
            consolidate(CHECKPOINT, s3.url("model"), executor=Here())
        s3.rule = lambda _: None
        assert (visible(s3), s3.uploads()) == ([], ["model/model.safetensors"])
        before = len(s3.requests)
        report = consolidate(CHECKPOINT, s3.url("model"), executor=Here())
        assert report.resumed_bytes >= 2 * PART
        sent = numbers_sent(s3, before)
        assert 5 in sent
        assert len(sent) < 7
        same(s3, tmp_path / "here")

    def test_a_task_that_is_lost_and_given_out_again(self, s3: Store, tmp_path: Path) -> None:
        consolidate(CHECKPOINT, tmp_path / "here")

        def ill(number: int, task: Task) -> None:
            if number % 2:
                if number == 3:
                    work(task)  # its answer is lost
                raise RuntimeError("the worker has gone")

        consolidate(CHECKPOINT, s3.url("model"), executor=Here(ill))
        same(s3, tmp_path / "here")

    @pytest.mark.parametrize("then", ["workers", "alone"])
    def test_whoever_hands_out_tasks_is_stopped(self, then: str, s3: Store, tmp_path: Path) -> None:
        consolidate(CHECKPOINT, tmp_path / "here", dtype="bf16")

        def stop(done: int, total: int) -> None:
            if done > total // 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            consolidate(CHECKPOINT, s3.url("model"), executor=Here(), progress=stop, dtype="bf16")
        assert visible(s3) == []
        executor = Here()
        again = {"executor": executor} if then == "workers" else {}
        report = consolidate(CHECKPOINT, s3.url("model"), dtype="bf16", **again)
        assert report.resumed_bytes > 0
        assert len(executor.given) < 3
        same(s3, tmp_path / "here")

    def test_workers_go_on_with_what_one_process_has_sent(self, s3: Store, tmp_path: Path) -> None:
        consolidate(CHECKPOINT, tmp_path / "here")
        s3.rule = refusing(5)
        with pytest.raises(StoreFailed):
            consolidate(CHECKPOINT, s3.url("model"))
        s3.rule = lambda _: None
        before = len(s3.requests)
        consolidate(CHECKPOINT, s3.url("model"), executor=Here())
        assert numbers_sent(s3, before)[0] > 1
        same(s3, tmp_path / "here")

    def test_a_task_of_a_conversion_that_was_thrown_away(self, s3: Store, tmp_path: Path) -> None:
        """It must not send anything that the new one could take for its own."""
        late: list[Task] = []

        def ill(number: int, task: Task) -> None:
            late.append(task)
            if number == 3:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            consolidate(CHECKPOINT, s3.url("model"), executor=Here(ill))
        consolidate(CHECKPOINT, tmp_path / "here", dtype="bf16")

        def zombie(number: int, task: Task) -> None:
            for each in late:
                with pytest.raises(OutputFailed, match="there is no conversion that this task belongs to"):
                    work(each)

        consolidate(CHECKPOINT, s3.url("model"), executor=Here(zombie), dtype="bf16", restart=True)
        with pytest.raises(OutputFailed, match="there is no conversion that this task belongs to"):
            work(late[0])
        same(s3, tmp_path / "here")

    def test_an_upload_that_a_rule_of_the_bucket_removed(self, s3: Store, tmp_path: Path) -> None:
        consolidate(CHECKPOINT, tmp_path / "here")
        s3.rule = refusing(5)
        with pytest.raises(StoreFailed):
            consolidate(CHECKPOINT, s3.url("model"), executor=Here())
        s3.rule = lambda _: None
        s3.give_up()
        consolidate(CHECKPOINT, s3.url("model"), executor=Here())
        same(s3, tmp_path / "here")
