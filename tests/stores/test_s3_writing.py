"""Outputs in S3: the files of a conversion to a disk, visible when all are complete, whatever the server does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest
from fixtures import FIXTURES
from moto.s3 import models
from s3_server import DENIED, DROPPED, EXPIRED, SERVER_ERROR, SLOW_DOWN, Fault, Request, some

import zeroconsolidate
from zeroconsolidate.api.converting import dry_run
from zeroconsolidate.errors import BadOption, OutputBusy, OutputExists, StoreFailed
from zeroconsolidate.integrations import object_stores
from zeroconsolidate.write import remote_stage, uploads

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from s3_server import Store

CHECKPOINT = FIXTURES / "trainer_zero3_tied/checkpoint"
PART = 8 << 10
STAGED = "model/.zeroconsolidate/"


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """56 KB of weights are seven parts."""
    monkeypatch.setattr(uploads, "PART_BYTES", PART)
    monkeypatch.setattr(uploads, "part_bytes_of", lambda _: PART)
    monkeypatch.setattr(remote_stage, "part_bytes_of", lambda _: PART)
    monkeypatch.setattr(uploads, "NOTED_BYTES", PART)
    monkeypatch.setattr(models, "S3_UPLOAD_PART_MIN_SIZE", 1)


def same(s3: Store, here: Path, key: str = "model") -> None:
    """The bucket has, under this name, the files of a directory and nothing else."""
    files = {str(path.relative_to(here)): path.read_bytes() for path in here.rglob("*") if path.is_file()}
    assert {name.removeprefix(f"{key}/") for name in s3.objects() if name.startswith(f"{key}/")} == set(files)
    assert {name: s3.get(f"{key}/{name}") for name in files} == files
    assert s3.uploads() == []


def visible(s3: Store) -> set[str]:
    return {key for key in s3.objects() if key.startswith("model/") and not key.startswith(STAGED)}


def parts_sent(s3: Store, since: int = 0) -> list[Request]:
    return [request for request in s3.requests[since:] if request.method == "PUT" and "partNumber" in request.query]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dtype": "bf16"},
        {"max_shard_size": "20KB"},
        {"digest": "sha256"},
        {"dtype": "bf16", "workers": 3, "digest": "sha256"},
        {"optimizer": True},
    ],
    ids=str,
)
def test_convert(options: dict[str, object], s3: Store, tmp_path: Path):
    zeroconsolidate.consolidate(CHECKPOINT, tmp_path / "here", **options)
    report = zeroconsolidate.consolidate(CHECKPOINT, s3.url("model"), **options)
    same(s3, tmp_path / "here")
    assert report.checks[-1] == "SHA-256 of every part, by the store"
    assert any("were not read back" in text for text in report.not_checked)
    assert report.load_line.endswith('("model")')
    assert zeroconsolidate.verify(s3.url("model")).ok
    assert zeroconsolidate.verify(s3.url("model"), against=CHECKPOINT).ok


def test_from_store_to_store(s3: Store, tmp_path: Path):
    url = s3.put(CHECKPOINT, "run")
    zeroconsolidate.consolidate(url, tmp_path / "here")
    zeroconsolidate.consolidate(url, s3.url("model"))
    same(s3, tmp_path / "here")


@pytest.mark.parametrize(
    "faults",
    [[SERVER_ERROR], [SLOW_DOWN], [DROPPED], [SERVER_ERROR, SLOW_DOWN, DROPPED, Fault(keep_bytes=10)]],
    ids=["500", "SlowDown", "dropped", "all"],
)
def test_a_store_that_fails_now_and_then(faults: list[Fault], s3: Store, tmp_path: Path):
    zeroconsolidate.consolidate(CHECKPOINT, tmp_path / "here")
    for share, seed in [(0.1, 1), (0.25, 2)]:
        s3.rule = some(share, faults, seed)
        zeroconsolidate.consolidate(CHECKPOINT, s3.url("model"), overwrite=seed > 1)
        s3.rule = lambda _: None
        same(s3, tmp_path / "here")


def test_nothing_has_a_name_before_all_is_complete(s3: Store, tmp_path: Path):
    """The order of what becomes visible: weights and what lies beside them, then index, config and manifest."""
    seen: list[set[str]] = []
    turn = threading.Lock()

    def rule(request: Request) -> None:
        if request.method in ("PUT", "POST"):
            with turn:
                seen.append(visible(s3))

    s3.rule = rule
    report = zeroconsolidate.consolidate(CHECKPOINT, s3.url("model"), max_shard_size="20KB")
    s3.rule = lambda _: None
    order = [name for before, after in zip(seen, [*seen[1:], visible(s3)], strict=True) for name in after - before]
    assert order[-1] == "model/zeroconsolidate.json"
    assert order.index("model/model.safetensors.index.json") > max(
        order.index(name) for name in order if name.endswith(".safetensors")
    )
    assert len(order) == len(report.files)


@pytest.mark.parametrize("name", ["files/tokenizer.json", "journal"])
def test_what_is_refused_beside_the_weights_is_an_error(name: str, s3: Store, tmp_path: Path):
    """It is sent while other things go on, and noticed all the same."""
    zeroconsolidate.consolidate(CHECKPOINT, tmp_path / "here")
    written = 0

    def rule(request: Request) -> Fault | None:
        nonlocal written
        if request.method != "PUT" or not request.path.endswith(f".zeroconsolidate/{name}"):
            return None
        written += 1
        return DENIED if name != "journal" or written > 2 else None

    s3.rule = rule
    with pytest.raises(StoreFailed, match="with --abort it removes what has been uploaded"):
        zeroconsolidate.consolidate(CHECKPOINT, s3.url("model"))
    assert visible(s3) == set()
    s3.rule = lambda _: None
    zeroconsolidate.consolidate(CHECKPOINT, s3.url("model"))
    same(s3, tmp_path / "here")


@pytest.mark.parametrize("fault", [DENIED, EXPIRED], ids=["denied", "expired"])
def test_refused_from_some_request_on_and_continued(fault: Fault, s3: Store, tmp_path: Path):
    """Wherever it stops: exit with an error, no file without the others, and the same command makes the same output."""
    zeroconsolidate.consolidate(CHECKPOINT, tmp_path / "here")
    zeroconsolidate.consolidate(CHECKPOINT, s3.url("model"))
    needed = len(s3.requests)
    continued = 0
    for kept in range(1, needed, needed // (8 if fault is DENIED else 3)):
        s3.empty()
        s3.requests.clear()
        object_stores.store_of(s3.url()).forget()
        s3.rule = lambda request, kept=kept: fault if request.number >= kept else None
        try:
            zeroconsolidate.consolidate(CHECKPOINT, s3.url("model"))
        except StoreFailed as error:
            assert "refuses access" in str(error)
        else:
            # All that was left is the removal of what was staged.
            assert "model/zeroconsolidate.json" in s3.objects()
        s3.rule = lambda _: None
        if "model/zeroconsolidate.json" in visible(s3):
            assert len(visible(s3)) == len(os.listdir(tmp_path / "here"))
        before = len(s3.requests)
        object_stores.store_of(s3.url()).forget()
        if s3.uploads() or visible(s3) != set(s3.objects()) or not s3.objects():
            report = zeroconsolidate.consolidate(CHECKPOINT, s3.url("model"))
            continued += report.resumed_bytes > 0
            assert len(parts_sent(s3, before)) + report.resumed_bytes // PART <= 8
        same(s3, tmp_path / "here")
    assert continued >= (2 if fault is DENIED else 1)


def test_parts_that_the_store_has_are_not_sent_again(s3: Store, tmp_path: Path):
    zeroconsolidate.consolidate(CHECKPOINT, tmp_path / "here")
    s3.rule = lambda request: EXPIRED if "5" in request.query.get("partNumber", ()) else None
    with pytest.raises(StoreFailed, match=r"the same command continues; with --abort it removes"):
        zeroconsolidate.consolidate(CHECKPOINT, s3.url("model"))
    assert s3.uploads() == ["model/model.safetensors"]
    assert visible(s3) == set()
    s3.rule = lambda _: None
    before = len(s3.requests)
    report = zeroconsolidate.consolidate(CHECKPOINT, s3.url("model"))
    assert report.resumed_bytes >= PART
    sent = sorted(int(request.query["partNumber"][0]) for request in parts_sent(s3, before))
    assert sent == list(range(1 + report.resumed_bytes // PART, 8))
    same(s3, tmp_path / "here")


def parts_held_after(last: int, held: threading.Event) -> Callable[[Request], Fault | None]:
    """The store is too busy for later parts, so that no upload can end; ``held`` is set by the first of them."""

    def rule(request: Request) -> Fault | None:
        if int(request.query.get("partNumber", ["0"])[0]) <= last:
            return None
        held.set()
        return SLOW_DOWN

    return rule


def test_a_process_that_is_killed(s3: Store, tmp_path: Path):
    zeroconsolidate.consolidate(CHECKPOINT, tmp_path / "here")
    program = f"""
import sys
from zeroconsolidate.write import remote_stage, uploads
uploads.part_bytes_of = remote_stage.part_bytes_of = lambda _: {PART}
uploads.NOTED_BYTES = {PART}
from zeroconsolidate.cli import main
sys.exit(main(sys.argv[1:]))
"""
    command = [sys.executable, "-c", program, "convert", str(CHECKPOINT), s3.url("model")]
    for last in (3, 5):
        held = threading.Event()
        s3.rule = parts_held_after(last, held)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not held.wait(0.02) and process.poll() is None:
            pass
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert visible(s3) == set()
    s3.rule = lambda _: None
    object_stores.store_of(s3.url()).forget()
    zeroconsolidate.consolidate(CHECKPOINT, s3.url("model"))
    same(s3, tmp_path / "here")


class TestAbort:
    def test_what_was_uploaded_is_removed(self, s3: Store):
        s3.rule = lambda request: EXPIRED if "5" in request.query.get("partNumber", ()) else None
        with pytest.raises(StoreFailed):
            zeroconsolidate.consolidate(CHECKPOINT, s3.url("model"))
        s3.rule = lambda _: None
        assert s3.uploads()
        command = [sys.executable, "-m", "zeroconsolidate", "convert", str(CHECKPOINT), s3.url("model"), "--abort"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert "removed" in done.stdout
        assert (s3.uploads(), s3.objects()) == ([], [])
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "nothing is staged" in done.stdout

    def test_a_finished_model_stays(self, s3: Store, tmp_path: Path):
        zeroconsolidate.consolidate(CHECKPOINT, s3.url("model"))
        command = [sys.executable, "-m", "zeroconsolidate", "convert", str(CHECKPOINT), s3.url("model"), "--abort"]
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0
        zeroconsolidate.consolidate(CHECKPOINT, tmp_path / "here")
        same(s3, tmp_path / "here")

    def test_what_was_never_worth_keeping_is_not_left(self, s3: Store):
        s3.rule = lambda request: DENIED if "uploads" in request.query else None
        with pytest.raises(StoreFailed):
            zeroconsolidate.consolidate(CHECKPOINT, s3.url("model"))
        s3.rule = lambda _: None
        assert (s3.uploads(), visible(s3)) == ([], set())


class TestRefusals:
    def test_an_output_that_is_not_empty(self, s3: Store):
        s3.direct("PUT", "model/notes.txt", b"mine")
        with pytest.raises(OutputExists, match=r"not empty \(notes.txt\); replace its model with overwrite=True"):
            zeroconsolidate.consolidate(CHECKPOINT, s3.url("model"))
        assert s3.objects() == ["model/notes.txt"]

    def test_overwrite_replaces_a_model_and_leaves_the_rest(self, s3: Store, tmp_path: Path):
        zeroconsolidate.consolidate(CHECKPOINT, s3.url("model"), max_shard_size="20KB")
        s3.direct("PUT", "model/notes.txt", b"mine")
        object_stores.store_of(s3.url()).forget()
        zeroconsolidate.consolidate(CHECKPOINT, s3.url("model"), overwrite=True)
        assert s3.get("model/notes.txt") == b"mine"
        s3.direct("DELETE", "model/notes.txt")
        zeroconsolidate.consolidate(CHECKPOINT, tmp_path / "here")
        same(s3, tmp_path / "here")

    def test_an_interrupted_conversion_with_other_options(self, s3: Store, tmp_path: Path):
        s3.rule = lambda request: EXPIRED if "5" in request.query.get("partNumber", ()) else None
        with pytest.raises(StoreFailed):
            zeroconsolidate.consolidate(CHECKPOINT, s3.url("model"))
        s3.rule = lambda _: None
        with pytest.raises(BadOption, match="has an interrupted conversion with other options"):
            zeroconsolidate.consolidate(CHECKPOINT, s3.url("model"), dtype="bf16")
        zeroconsolidate.consolidate(CHECKPOINT, s3.url("model"), dtype="bf16", restart=True)
        zeroconsolidate.consolidate(CHECKPOINT, tmp_path / "here", dtype="bf16")
        same(s3, tmp_path / "here")

    def test_another_machine_that_has_taken_over(self, s3: Store):
        def rule(request: Request) -> None:
            if "partNumber" in request.query and request.query["partNumber"] == ["3"]:
                while '"upload"' not in s3.get(f"{STAGED}journal").decode():
                    time.sleep(0.01)  # we are writing it just now
                s3.direct("PUT", f"{STAGED}journal", b"")

        s3.rule = rule
        monkeypatch_off = remote_stage.SentPart.sync
        try:
            remote_stage.SentPart.sync = lambda self: None
            with pytest.raises(OutputBusy, match="another conversion has taken over"):
                zeroconsolidate.consolidate(CHECKPOINT, s3.url("model"))
        finally:
            remote_stage.SentPart.sync = monkeypatch_off
        assert visible(s3) == set()

    def test_an_output_in_its_checkpoint(self, s3: Store):
        url = s3.put(CHECKPOINT, "run")
        with pytest.raises(BadOption, match="lies in the checkpoint"):
            zeroconsolidate.consolidate(url, f"{url}/model")

    def test_what_must_be_on_a_disk(self, s3: Store):
        with pytest.raises(BadOption, match="a universal checkpoint must be on this machine"):
            zeroconsolidate.universal(CHECKPOINT, s3.url("u"))


def test_a_dry_run_writes_nothing(s3: Store):
    rehearsal = dry_run(CHECKPOINT, s3.url("model"))
    assert rehearsal.cost.output_bytes > 0
    assert s3.objects() == []
    assert not [request for request in s3.requests if request.method in ("PUT", "POST")]


def test_the_journal_says_nothing_that_is_not_there(s3: Store):
    """A part that the journal counts, but that the store has lost, is sent again."""
    s3.rule = lambda request: EXPIRED if "6" in request.query.get("partNumber", ()) else None
    with pytest.raises(StoreFailed):
        zeroconsolidate.consolidate(CHECKPOINT, s3.url("model"))
    s3.rule = lambda _: None
    journal = s3.get(f"{STAGED}journal").decode()
    begun = [json.loads(line[9:]) for line in journal.splitlines()]
    upload = next(record["upload"] for record in begun if "upload" in record)
    s3.direct("DELETE", f"model/model.safetensors?uploadId={upload}")
    object_stores.store_of(s3.url()).forget()
    assert zeroconsolidate.consolidate(CHECKPOINT, s3.url("model")).files
    assert zeroconsolidate.verify(s3.url("model"), against=CHECKPOINT).ok
    assert os.listdir("/") and s3.uploads() == []
