"""Small files are synced together, before anything is written down of them."""

from __future__ import annotations

import os
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
    assert written == (["a", "b"] if name == "SYNC_BYTES" else ["a", "b", "c"])
