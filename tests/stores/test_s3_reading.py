"""Checkpoints in S3: the same results as on a disk, whatever the server does, or an error that says what is wrong."""

from __future__ import annotations

import filecmp
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from fixtures import FIXTURES
from s3_server import DENIED, DROPPED, EXPIRED, SERVER_ERROR, SLOW_DOWN, Fault, Request, some

import zeroconsolidate
from zeroconsolidate.errors import DamagedFile, NotACheckpoint, StoreFailed
from zeroconsolidate.integrations import object_stores, s3_store, store_calls

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from s3_server import Store

CASES = ["z2_bf16", "z3_w4", "trainer_zero3_tied", "z2_legacy"]


def same(one: Path, other: Path) -> None:
    names = sorted(os.listdir(one))
    assert names == sorted(os.listdir(other))
    assert filecmp.cmpfiles(one, other, names, shallow=False) == (names, [], [])


@pytest.mark.parametrize("case", CASES)
def test_convert(case: str, s3: Store, tmp_path: Path):
    url = s3.put(FIXTURES / case / "checkpoint", case)
    zeroconsolidate.consolidate(url, tmp_path / "a")
    zeroconsolidate.consolidate(FIXTURES / case / "checkpoint", tmp_path / "b")
    same(tmp_path / "a", tmp_path / "b")
    assert zeroconsolidate.verify(tmp_path / "a", against=url).ok
    assert zeroconsolidate.verify_source(url).ok


@pytest.mark.parametrize(
    "faults",
    [
        [SERVER_ERROR],
        [SLOW_DOWN],
        [DROPPED],
        [Fault(keep_bytes=100)],
        [Fault(pause_seconds=0.05, bytes_per_second=1 << 20)],
        [SERVER_ERROR, SLOW_DOWN, DROPPED, Fault(keep_bytes=1)],
    ],
    ids=["500", "SlowDown", "dropped", "truncated", "slow", "all"],
)
def test_a_store_that_fails_now_and_then(faults: list[Fault], s3: Store, tmp_path: Path):
    """One request in ten, and one in three."""
    url = s3.put(FIXTURES / "trainer_zero3_tied/checkpoint", "run")
    zeroconsolidate.consolidate(FIXTURES / "trainer_zero3_tied/checkpoint", tmp_path / "here")
    for share, seed in [(0.1, 1), (0.1, 2), (0.35, 3)]:
        s3.rule = some(share, faults, seed)
        zeroconsolidate.consolidate(url, tmp_path / f"there-{seed}")
        same(tmp_path / "here", tmp_path / f"there-{seed}")


def test_a_store_that_is_down(s3: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    url = s3.put(FIXTURES / "z3_bf16/checkpoint", "run")
    monkeypatch.setattr(store_calls, "DEADLINE_SECONDS", 0.5)
    s3.rule = lambda _: SLOW_DOWN
    with pytest.raises(StoreFailed, match=r"does not answer: .*(SlowDown|reduce your request rate).*run the same"):
        zeroconsolidate.consolidate(url, tmp_path / "out")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An attempt may take 0.3 s. The client knows it from the beginning."""
    monkeypatch.setattr(store_calls, "ATTEMPT_SECONDS", 0.3)
    monkeypatch.setattr(store_calls, "DEADLINE_SECONDS", 0.5)
    object_stores._store.cache_clear()
    yield
    object_stores._store.cache_clear()


def test_a_store_that_hangs(s3: Store, impatient: None):
    url = s3.put(FIXTURES / "z3_bf16/checkpoint", "run")
    s3.rule = lambda request: Fault(pause_seconds=3) if request.range else None
    with pytest.raises(StoreFailed, match=r"does not answer: ReadTimeoutError"):
        zeroconsolidate.inspect(url)


def test_a_store_whose_answers_trickle(s3: Store, impatient: None, monkeypatch: pytest.MonkeyPatch):
    """Every byte comes in time, and all of them do not."""
    url = s3.put(FIXTURES / "z3_bf16/checkpoint", "run")
    monkeypatch.setattr(s3_store, "_READ_BYTES", 1 << 10)
    s3.rule = lambda request: Fault(bytes_per_second=10 << 10) if request.range else None
    with pytest.raises(StoreFailed, match=r"does not answer: TimeoutError: an answer takes too long"):
        zeroconsolidate.inspect(url)


@pytest.mark.parametrize(("fault", "message"), [(DENIED, "AccessDenied"), (EXPIRED, "ExpiredToken")])
def test_what_the_store_refuses(fault: Fault, message: str, s3: Store, tmp_path: Path):
    """From the beginning, or from some request on; nothing half-written has a name, and the same command goes on."""
    url = s3.put(FIXTURES / "trainer_zero3_tied/checkpoint", "run")
    s3.rule = lambda _: fault
    with pytest.raises(StoreFailed, match=f"refuses access: .*{message}.*check the credentials"):
        zeroconsolidate.inspect(url)
    before = len(s3.requests)
    s3.rule = lambda _: None
    zeroconsolidate.consolidate(url, tmp_path / "whole")
    needed = len(s3.requests) - before
    for kept in range(2, needed - 1, 7):
        first, out = len(s3.requests), tmp_path / f"out-{kept}"
        object_stores.store_of(url).forget()
        s3.rule = lambda request, upto=first + kept: fault if request.number >= upto else None
        with pytest.raises(StoreFailed, match="refuses access"):
            zeroconsolidate.consolidate(url, out)
        assert not out.exists() or os.listdir(out) == [".zeroconsolidate"]
        s3.rule = lambda _: None
        zeroconsolidate.consolidate(url, out)
        same(out, tmp_path / "whole")


def test_permission_is_missing_for_one_file_only(s3: Store, tmp_path: Path):
    url = s3.put(FIXTURES / "z2_w4/checkpoint", "run")
    s3.rule = lambda request: DENIED if "pp_rank_2" in request.key else None
    with pytest.raises(StoreFailed, match=r"refuses access.*pp_rank_2"):
        zeroconsolidate.consolidate(url, tmp_path / "out", rescue=True)


def test_an_object_that_is_replaced_before_its_values_are_read(s3: Store, tmp_path: Path):
    """The metadata are of the old one. Its ETag is part of every request."""
    url = s3.put(FIXTURES / "trainer_zero3_tied/checkpoint", "run")
    seen: list[Request] = []

    def rule(request: Request) -> None:
        if request.key.endswith("optim_states.pt") and 0 < request.range_bytes < 80_000 and not seen:
            seen.append(request)
            s3.direct("PUT", request.key, s3.get(request.key)[:-1] + b"!")

    s3.rule = rule
    with pytest.raises(DamagedFile, match=r"was changed while it was being read.*s3://runs/run/"):
        zeroconsolidate.consolidate(url, tmp_path / "out")
    assert seen


def test_nothing_is_there(s3: Store):
    with pytest.raises(NotACheckpoint, match="no such directory"):
        zeroconsolidate.inspect("s3://runs/none")
    with pytest.raises(NotACheckpoint, match="no such directory"):
        zeroconsolidate.inspect("s3://no-such-bucket/none")


def test_the_command(s3: Store, tmp_path: Path):
    url = s3.put(FIXTURES / "z3_bf16/checkpoint", "run")

    def command(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "zeroconsolidate", *map(str, words)], capture_output=True, text=True, check=False
        )

    done = command("convert", url, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "from         global_step2" in done.stdout
    assert command("verify", tmp_path / "out", "--against", url).returncode == 0
    assert command("verify", tmp_path / "out", url).returncode == 0
    assert command("verify", url).returncode == 0
    s3.rule = lambda _: DENIED
    done = command("inspect", url)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "the store refuses access" in done.stderr
