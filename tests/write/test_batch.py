"""Small files are synced together, before anything is written down of them."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from zeroconsolidate.write import part
from zeroconsolidate.write.batch import Batch

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Inodes as they are synced; the test adds what is written down."""
    seen: list[Any] = []
    true = os.fsync

    def fsync(fd: int) -> None:
        seen.append(os.fstat(fd).st_ino)
        true(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    return seen


def file(folder: Path, name: str) -> tuple[str, dict[str, Any], int]:
    path = folder / name
    path.write_bytes(b"12345678")
    return str(path), {"file": name, "done": 8}, path.stat().st_ino


def test_nothing_is_written_down_before_it_is_synced(tmp_path: Path, events: list[Any]):
    batch = Batch(lambda records: events.append([record["file"] for record in records]))
    inodes = []
    for name in ("a", "b"):
        path, record, inode = file(tmp_path, name)
        batch.add(path, record)
        inodes.append(inode)
    assert events == []
    batch.settle()
    assert events == [*inodes, ["a", "b"]]
    batch.settle()
    assert len(events) == 3


@pytest.mark.parametrize(("name", "value"), [("SYNC_BYTES", 16), ("SYNC_SECONDS", 0.0)])
def test_they_do_not_wait_for_too_much_or_too_long(
    name: str, value: float, tmp_path: Path, events: list[Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(part, name, value)
    written: list[str] = []
    batch = Batch(lambda records: written.extend(record["file"] for record in records))
    for each in ("a", "b", "c"):
        path, record, _ = file(tmp_path, each)
        batch.add(path, record)
    batch.close()
    assert written == (["a", "b"] if name == "SYNC_BYTES" else ["a", "b", "c"])


def test_a_sync_that_failed_is_raised_and_nothing_is_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the next call, and by every one after it; copying has gone on meanwhile."""

    def fails(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    monkeypatch.setattr(part, "SYNC_BYTES", 1)
    written: list[Any] = []
    batch = Batch(written.extend)
    path, record, _ = file(tmp_path, "a")
    batch.add(path, record)
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output error"):
            batch.settle()
    with pytest.raises(OSError, match="Input/output error"):
        batch.add(path, record)
    batch.close()
    assert written == []


def test_files_are_synced_while_the_next_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One batch at a time: the second waits for the first."""
    go_on, true = threading.Event(), os.fsync

    def fsync(fd: int) -> None:
        assert go_on.wait(60)
        true(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    written: list[str] = []
    batch = Batch(lambda records: written.extend(record["file"] for record in records))
    monkeypatch.setattr(part, "SYNC_BYTES", 16)
    for each in ("a", "b", "c"):
        path, record, _ = file(tmp_path, each)
        batch.add(path, record)
    assert batch.is_waiting
    assert written == []
    go_on.set()
    batch.settle()
    assert not batch.is_waiting
    assert written == ["a", "b", "c"]
