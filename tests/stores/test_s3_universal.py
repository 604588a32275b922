"""Universal checkpoints in S3: the files that are written to a disk, visible when all are complete."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from command import environment
from fixtures import FIXTURES
from moto.s3 import models
from s3_server import DENIED, DROPPED, EXPIRED, SERVER_ERROR, SLOW_DOWN, Fault, Request, some
from small_uploads import PART

from zeroconsolidate import universal, verify
from zeroconsolidate.api.universal import dry_run_universal
from zeroconsolidate.errors import BadOption, OutputExists, PlanBroken, StoreFailed, WrongNames
from zeroconsolidate.integrations import object_stores, store_calls
from zeroconsolidate.plan.fragment import FragmentPlan
from zeroconsolidate.write import remote_portion, remote_sending, remote_spread, uploads

if TYPE_CHECKING:
    from pathlib import Path

    from s3_server import Store

CHECKPOINT = FIXTURES / "trainer_zero3_tied/checkpoint"
SMALL = FIXTURES / "z2_w12/checkpoint"
STAGED = "resume/.zeroconsolidate/"
LATEST, MANIFEST = "resume/latest_universal", "resume/zeroconsolidate.json"
LARGE = "embed_tokens.weight/exp_avg.pt"
"""A fragment of three parts."""


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (uploads, remote_sending, remote_portion, remote_spread):
        monkeypatch.setattr(module, "part_bytes_of", lambda _: PART)
    monkeypatch.setattr(uploads, "NOTED_BYTES", PART)
    monkeypatch.setattr(models, "S3_UPLOAD_PART_MIN_SIZE", 1)
    monkeypatch.setattr(store_calls, "DEADLINE_SECONDS", 20)


def files_in(here: Path) -> dict[str, bytes]:
    return {str(path.relative_to(here)): path.read_bytes() for path in here.rglob("*") if path.is_file()}


def same(s3: Store, here: Path) -> None:
    """The bucket has the files of a directory and nothing else: no upload, nothing staged."""
    found = {name.removeprefix("resume/"): s3.get(name) for name in s3.objects() if name.startswith("resume/")}
    assert found == files_in(here)
    assert s3.uploads() == []


def visible(s3: Store) -> set[str]:
    return {key for key in s3.objects() if key.startswith("resume/") and not key.startswith(STAGED)}


def sent(s3: Store, since: int = 0) -> list[Request]:
    """What was sent of fragments and copies, small or in parts."""
    return [
        request
        for request in s3.requests[since:]
        if request.method == "PUT" and request.key.endswith((".pt", ".pth"))
        and ("partNumber" in request.query or request.key.startswith(STAGED))
    ]  # fmt: skip


def parts_of(name: str, *numbers: int, fault: Fault = EXPIRED) -> Any:
    """A rule: these parts of a file are refused."""
    return lambda request: (
        fault if request.key.endswith(name) and request.query.get("partNumber", ["0"])[0] in map(str, numbers) else None
    )


def anew(s3: Store) -> None:
    s3.rule = lambda _: None
    object_stores.store_of(s3.url()).forget()


@pytest.mark.parametrize(
    "name",
    ["trainer_zero3_tied", "z1_w1", "z2_legacy", "z3_frozen_tied", "layouts/moe_ep2_z2", "layouts/z0_fp16_fused"],
)
def test_the_files_of_a_disk(name: str, s3: Store, tmp_path: Path) -> None:
    checkpoint = FIXTURES / name / "checkpoint"
    universal(checkpoint, tmp_path / "here")
    report = universal(checkpoint, s3.url("resume"))
    same(s3, tmp_path / "here")
    assert any("read again as a universal checkpoint" in text for text in report.checks)
    assert "SHA-256 of every part, by the store" in report.checks


@pytest.mark.parametrize("options", [{}, {"digest": "sha256", "check": "all"}], ids=str)
def test_options(options: dict[str, Any], s3: Store, tmp_path: Path) -> None:
    universal(CHECKPOINT, tmp_path / "here", **options)
    universal(CHECKPOINT, s3.url("resume"), **options)
    same(s3, tmp_path / "here")
    assert verify(s3.url("resume")).ok
    assert verify(s3.url("resume"), against=CHECKPOINT).ok


def test_a_rescue(s3: Store, tmp_path: Path) -> None:
    checkpoint = tmp_path / "incomplete"
    shutil.copytree(FIXTURES / "z2_w4/checkpoint", checkpoint)
    (lost,) = (checkpoint / "global_step2").glob("*pp_rank_2_*")
    lost.unlink()
    universal(checkpoint, tmp_path / "here", rescue=True)
    report = universal(checkpoint, s3.url("resume"), rescue=True)
    assert report.rescue is not None
    same(s3, tmp_path / "here")


def test_from_store_to_store(s3: Store, tmp_path: Path) -> None:
    url = s3.put(CHECKPOINT, "run")
    universal(url, tmp_path / "here")
    universal(url, s3.url("resume"))
    same(s3, tmp_path / "here")


def test_a_file_without_content(s3: Store, tmp_path: Path) -> None:
    shutil.copytree(CHECKPOINT, tmp_path / "run")
    (tmp_path / "run/rng_state_0.pth").write_bytes(b"")
    universal(tmp_path / "run", tmp_path / "here")
    universal(tmp_path / "run", s3.url("resume"))
    same(s3, tmp_path / "here")
    assert s3.get("resume/rng_state_0.pth") == b""


@pytest.mark.parametrize(("share", "seed"), [(0.1, 1), (0.25, 2)])
def test_a_store_that_fails_now_and_then(share: float, seed: int, s3: Store, tmp_path: Path) -> None:
    universal(CHECKPOINT, tmp_path / "here")
    s3.rule = some(share, [SERVER_ERROR, SLOW_DOWN, DROPPED, Fault(keep_bytes=10)], seed)
    universal(CHECKPOINT, s3.url("resume"))
    anew(s3)
    same(s3, tmp_path / "here")


def test_fragments_are_sent_side_by_side_and_noted_together(s3: Store) -> None:
    """No file waits for the answer to another, and the journal is not written for each."""
    now, most, turn = 0, 0, threading.Lock()

    def rule(request: Request) -> None:
        nonlocal now, most
        if request.method == "PUT" and request.key.startswith(f"{STAGED}files/"):
            with turn:
                now += 1
                most = max(most, now)
            time.sleep(0.1)
            with turn:
                now -= 1

    s3.rule = rule
    uploads.NOTED_BYTES = 256 << 20
    report = universal(SMALL, s3.url("resume"))
    notes = [request for request in s3.requests if request.method == "PUT" and request.key == f"{STAGED}journal"]
    assert len(report.files) > 30
    assert most >= 6
    assert len(notes) < 8
    removals = [request for request in s3.requests if "delete" in request.query]
    assert len(removals) == 2


def test_what_names_the_tag_comes_when_all_it_names_is_there(s3: Store) -> None:
    seen: list[set[str]] = []

    def rule(request: Request) -> None:
        if request.method in ("PUT", "POST"):
            seen.append(visible(s3))

    s3.rule = rule
    report = universal(CHECKPOINT, s3.url("resume"))
    anew(s3)
    last = visible(s3)
    assert len(last) == len(report.files)
    with_latest = [names for names in seen if LATEST in names]
    assert all(last - names <= {MANIFEST} for names in with_latest)
    assert MANIFEST not in seen[-4] or LATEST in seen[-4]
    first = next(index for index, names in enumerate(seen) if names)
    assert s3.requests and first > len(seen) // 2


@pytest.mark.parametrize("fault", [DENIED, EXPIRED], ids=["denied", "expired"])
def test_refused_from_some_request_on_and_continued(fault: Fault, s3: Store, tmp_path: Path) -> None:
    """Also at each request of publishing: nothing is named before all is there, and the same command ends it."""
    universal(SMALL, tmp_path / "here")
    universal(SMALL, s3.url("resume"))
    needed = len(s3.requests)
    first = next(request.number for request in s3.requests if request.method == "PUT" and request.key in visible(s3))
    numbers = (
        range(1, needed, needed // 5)
        if fault is EXPIRED
        else [*range(first - 1, needed, (needed - first) // 5), needed - 1]
    )
    stopped = 0
    for kept in numbers:
        s3.empty()
        s3.requests.clear()
        anew(s3)
        s3.rule = lambda request, kept=kept: fault if request.number >= kept else None
        try:
            universal(SMALL, s3.url("resume"))
        except StoreFailed as error:
            stopped += 1
            assert "refuses access" in str(error)
        anew(s3)
        if LATEST in visible(s3):
            assert len(visible(s3) | {MANIFEST}) == len(files_in(tmp_path / "here"))
        if s3.uploads() or visible(s3) != set(s3.objects()) or not s3.objects():
            universal(SMALL, s3.url("resume"))
        same(s3, tmp_path / "here")
    assert stopped >= len(numbers) - 2


def test_files_that_the_store_has_are_not_sent_again(s3: Store, tmp_path: Path) -> None:
    universal(CHECKPOINT, tmp_path / "here")
    s3.rule = parts_of(LARGE, 2)
    with pytest.raises(StoreFailed, match=r"the same command continues; with --abort it removes"):
        universal(CHECKPOINT, s3.url("resume"))
    assert visible(s3) == set()
    anew(s3)
    before = len(s3.requests)
    report = universal(CHECKPOINT, s3.url("resume"))
    assert report.resumed_bytes > 3 * PART
    again = {request.key for request in sent(s3, before)}
    assert not [key for key in again if key.endswith("embed_tokens.weight/fp32.pt")]
    same(s3, tmp_path / "here")


@pytest.mark.parametrize("last", [1, 2])
def test_parts_of_a_fragment_that_the_store_has_are_not_sent_again(last: int, s3: Store, tmp_path: Path) -> None:
    """The checksum behind the tensor is of bytes that an earlier run has sent, too."""
    universal(CHECKPOINT, tmp_path / "here")
    s3.rule = parts_of(LARGE, *range(last + 1, 9))
    with pytest.raises(StoreFailed):
        universal(CHECKPOINT, s3.url("resume"))
    anew(s3)
    before = len(s3.requests)
    universal(CHECKPOINT, s3.url("resume"))
    numbers = [int(request.query["partNumber"][0]) for request in sent(s3, before) if request.key.endswith(LARGE)]
    assert min(numbers) in (2, last + 1)
    same(s3, tmp_path / "here")
    assert verify(s3.url("resume"), against=CHECKPOINT).ok


def test_a_process_that_is_killed(s3: Store, tmp_path: Path) -> None:
    universal(CHECKPOINT, tmp_path / "here")
    program = "import sys, small_uploads as s; s.begin(); from zeroconsolidate.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "universal", str(CHECKPOINT), s3.url("resume")]
    for count in (10, 40):
        held, seen = threading.Event(), 0

        def rule(request: Request, count: int = count, held: threading.Event = held) -> Fault | None:
            nonlocal seen
            seen += request.method == "PUT" and request.key.endswith(".pt")
            if seen <= count:
                return None
            held.set()
            return SLOW_DOWN

        s3.rule = rule
        process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not held.wait(0.02) and process.poll() is None:
            pass
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert visible(s3) == set()
    anew(s3)
    universal(CHECKPOINT, s3.url("resume"))
    same(s3, tmp_path / "here")


class TestTheLastCheck:
    def test_a_fragment_that_cannot_be_read(self, s3: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        tail = FragmentPlan.tail
        monkeypatch.setattr(FragmentPlan, "tail", lambda self, crc32: tail(self, crc32).replace(b"PK\5\6", b"PK\5\7"))
        with pytest.raises(PlanBroken, match="cannot be read again"):
            universal(SMALL, s3.url("resume"))
        assert (s3.objects(), s3.uploads()) == ([], [])

    @pytest.mark.parametrize("again", [False, True], ids=["sent now", "sent before"])
    def test_a_copy_that_is_another_file(
        self, again: bool, s3: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is what was sent that is read, and of what an earlier run has sent the checkpoint's file."""
        if again:
            s3.rule = lambda request: DENIED if request.key.endswith("files/latest_universal") else None
            with pytest.raises(StoreFailed):
                universal(SMALL, s3.url("resume"))
            anew(s3)
            universal(SMALL, s3.url("resume"))
            universal(SMALL, tmp_path / "here")
            same(s3, tmp_path / "here")
            return
        from zeroconsolidate.run.local import LocalFiles

        read = LocalFiles.read_into

        def another(self: LocalFiles, file: str, start: int, buffer: memoryview) -> None:
            read(self, file, start, buffer)
            if file.endswith("model_states.pt") and start == 0:
                buffer[:4] = b"none"

        monkeypatch.setattr(LocalFiles, "read_into", another)
        with pytest.raises(WrongNames, match=r"mp_rank_00_model_states.pt > data.pkl"):
            universal(SMALL, s3.url("resume"), check="none")
        assert visible(s3) == set()


class TestTheCommand:
    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "zeroconsolidate", "universal", *words]
        return subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)

    def test_abort(self, s3: Store) -> None:
        s3.rule = parts_of(LARGE, 2)
        with pytest.raises(StoreFailed):
            universal(CHECKPOINT, s3.url("resume"))
        anew(s3)
        assert s3.uploads()
        done = self.run(str(CHECKPOINT), s3.url("resume"), "--abort")
        assert (done.returncode, done.stderr) == (0, "")
        assert "removed" in done.stdout
        assert (s3.uploads(), s3.objects()) == ([], [])
        done = self.run(str(CHECKPOINT), s3.url("resume"), "--abort")
        assert "nothing is staged" in done.stdout
        assert self.run(str(CHECKPOINT), s3.url("resume"), "--abort", "--json").returncode == 2

    def test_dry_run(self, s3: Store) -> None:
        assert dry_run_universal(CHECKPOINT, s3.url("resume")).cost.output_bytes > 0
        assert self.run(str(CHECKPOINT), s3.url("resume"), "--dry-run").returncode == 0
        assert s3.objects() == []
        assert not [request for request in s3.requests if request.method in ("PUT", "POST")]


class TestRefusals:
    def test_an_output_that_is_not_empty(self, s3: Store) -> None:
        s3.direct("PUT", "resume/notes.txt", b"mine")
        with pytest.raises(OutputExists, match=r"not empty \(notes.txt\)"):
            universal(SMALL, s3.url("resume"))
        assert s3.objects() == ["resume/notes.txt"]

    def test_other_options_and_restart(self, s3: Store, tmp_path: Path) -> None:
        s3.rule = parts_of(LARGE, 2)
        with pytest.raises(StoreFailed):
            universal(CHECKPOINT, s3.url("resume"))
        anew(s3)
        with pytest.raises(BadOption, match="has an interrupted conversion with other options"):
            universal(CHECKPOINT, s3.url("resume"), digest="sha256")
        universal(CHECKPOINT, tmp_path / "here", digest="sha256")
        universal(CHECKPOINT, s3.url("resume"), digest="sha256", restart=True)
        same(s3, tmp_path / "here")

    def test_blocks_that_no_store_shares(self, s3: Store) -> None:
        with pytest.raises(BadOption, match="a store shares no blocks with the checkpoint"):
            universal(SMALL, s3.url("resume"), reflink="always")
        assert s3.objects() == []

    def test_an_output_in_its_checkpoint(self, s3: Store) -> None:
        url = s3.put(SMALL, "run")
        with pytest.raises(BadOption, match="lies in the checkpoint"):
            universal(url, f"{url}/resume")
        assert os.listdir(SMALL)
