"""What an interrupted conversion leaves, piece by piece: journal, fingerprint, lock, room, and what is synced when."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from zeroconsolidate.errors import BadOption, OutputExists, OutputFailed
from zeroconsolidate.plan.layout import FilePlan
from zeroconsolidate.plan.stretches import Stretch
from zeroconsolidate.write import part, stage
from zeroconsolidate.write.fingerprint import fingerprint
from zeroconsolidate.write.journal import Journal, read_progress, refuse_other
from zeroconsolidate.write.lock import Lock
from zeroconsolidate.write.refusals import refuse_unwritable
from zeroconsolidate.write.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SIZE = 1 << 16


def staged(out: Path, **how: Any) -> Stage:
    return Stage(str(out), **({"overwrite": False, "restart": False, "fingerprint": {"options": {}}} | how))


def leave(out: Path, *files: str, upto: int = SIZE) -> None:
    """Stop after `files`, of which the last has been written below `upto`."""
    with pytest.raises(KeyboardInterrupt), staged(out) as half:
        for name in files:
            with half.weights(name, SIZE) as weights:
                weights.output.write(bytes(SIZE if name != files[-1] else upto), 0)
                if name == files[-1] and upto < SIZE:
                    weights.reached(upto)
                    raise KeyboardInterrupt
        raise KeyboardInterrupt


# --- what is on disk, and in which order


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """(call, path) of every fsync, rename and write to a journal."""
    made: list[tuple[str, str]] = []

    def noted(name: str, path: Callable[..., str]) -> None:
        true = getattr(os, name)

        def call(*arguments: Any) -> Any:
            made.append((name, path(*arguments)))
            return true(*arguments)

        monkeypatch.setattr(os, name, call)

    noted("fsync", lambda fd: os.readlink(f"/proc/self/fd/{fd}"))
    noted("write", lambda fd, _: os.readlink(f"/proc/self/fd/{fd}"))
    noted("replace", lambda _, target: target)
    return made


def test_what_leads_to_the_data_is_synced_too(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    """A journal without an entry in its folder is lost with the power, and so is a file whose name was never synced."""
    out, folder = tmp_path / "deep" / "out", tmp_path / "deep" / "out" / ".zeroconsolidate"
    journal = str(folder / "journal")
    with staged(out) as new:
        assert calls[-2:] == [("write", journal), ("fsync", journal)]
        calls.clear()
        with new.weights("model.safetensors", SIZE) as weights:
            weights.output.write(bytes(SIZE), 0)
            weights.reached(SIZE // 2)
            weights.sync()
            led = [("fsync", str(path)) for path in (folder, out, out.parent, tmp_path)]
            assert set(calls[: calls.index(("write", journal))]) >= set(led)
            assert calls[-2:] == [("write", journal), ("fsync", journal)]
        calls.clear()
        new.publish(last=())
    published = calls.index(("write", journal))
    assert set(calls[:published]) >= {*led, ("fsync", str(folder / "files"))}
    assert calls[published + 1] == ("fsync", journal)
    renamed = calls.index(("replace", str(out / "model.safetensors")))
    assert renamed > published
    assert ("fsync", str(out)) in calls[renamed:]


def test_nothing_synced_by_halves_leads_to_the_journal_either(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    """A small output is published without a sync in between."""
    with staged(tmp_path / "out") as new:
        new.write("config.json", b"{}")
        calls.clear()
        new.publish(last=())
    published = calls.index(("write", str(tmp_path / "out/.zeroconsolidate/journal")))
    assert ("fsync", str(tmp_path)) in calls[:published]


def test_a_descriptor_is_not_closed_under_a_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It could be another file's by the time the thread gets to it."""
    monkeypatch.setattr(part, "SYNC_BYTES", 1)
    true, synced = os.fsync, []

    def slow(fd: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            time.sleep(0.2)
            synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        true(fd)

    monkeypatch.setattr(os, "fsync", slow)
    with pytest.raises(ZeroDivisionError), staged(tmp_path / "out") as half, half.weights("a", SIZE) as weights:
        weights.output.write(bytes(SIZE), 0)
        weights.reached(SIZE)
        raise ZeroDivisionError
    assert str(tmp_path / "out/.zeroconsolidate/files/a") in synced


def test_where_no_thread_can_be_started_the_sync_is_made_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on the address space leaves no room for a thread's stack."""

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(part, "SYNC_BYTES", 1)
    starting = "_start_joinable_thread" if hasattr(threading, "_start_joinable_thread") else "_start_new_thread"
    monkeypatch.setattr(threading, starting, refuse)  # since Python 3.13 it is the first
    true, synced = os.fsync, []
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), true(fd))[1])
    with pytest.raises(ZeroDivisionError), staged(tmp_path / "out") as half, half.weights("a", SIZE) as weights:
        weights.output.write(bytes(SIZE), 0)
        weights.reached(SIZE)
        raise ZeroDivisionError
    assert str(tmp_path / "out/.zeroconsolidate/files/a") in synced


# --- the journal


def records(path: Path) -> int:
    return len(path.read_bytes().splitlines())


def test_a_damaged_record_and_what_follows_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(str(path))
    for upto in (1, 2, 3):
        journal.append({"file": "a", "upto": upto, "facts": {}})
    journal.close()
    path.write_bytes(path.read_bytes().replace(b'"upto":2', b'"upto":9'))
    journal = Journal(str(path))
    assert journal.progress.upto == {"a": 1}
    journal.append({"file": "a", "upto": 5, "facts": {}})
    journal.close()
    # What did not count was cut off, so that what follows it counts.
    assert records(path) == 2
    journal = Journal(str(path))
    assert journal.progress.upto == {"a": 5}
    journal.close()


@pytest.mark.parametrize("missing", [1, 2, 20])
def test_a_torn_record_is_cut_off_before_others_follow(tmp_path: Path, missing: int) -> None:
    """Of one it is only the end of the line that is missing: what came next would stand on the same line."""
    path = tmp_path / "journal"
    journal = Journal(str(path))
    journal.append({"file": "a", "upto": 9, "facts": {}})
    journal.close()
    os.truncate(path, path.stat().st_size - missing)
    for upto in (1, 2):
        journal = Journal(str(path))
        assert journal.progress.upto == ({"a": upto - 1} if upto > 1 else {})
        journal.append({"file": "a", "upto": upto, "facts": {}})
        journal.close()
    journal = Journal(str(path))
    assert journal.progress.upto == {"a": 2}
    journal.close()


def test_a_staged_file_that_was_taken_away_is_made_again(tmp_path: Path) -> None:
    leave(tmp_path / "out", "a", "b")
    with staged(tmp_path / "out") as again:
        assert again.facts("a") == again.facts("b") == {}
        os.truncate(again.path("a"), SIZE - 1)
        os.unlink(again.path("b"))
        assert again.facts("a") is again.facts("b") is None


def test_what_the_journal_does_not_vouch_for_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part, "SYNC_BYTES", 1)
    leave(tmp_path / "out", "a", upto=SIZE // 2)
    path = tmp_path / "out/.zeroconsolidate/files/a"
    path.write_bytes(path.read_bytes() + b"x" * SIZE)
    with pytest.raises(KeyboardInterrupt), staged(tmp_path / "out") as again, again.weights("a", SIZE) as weights:
        assert weights.start == path.stat().st_size == SIZE // 2
        raise KeyboardInterrupt


# --- what decides the bytes


def test_each_part_of_the_fingerprint_counts(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"12")
    os.utime(tmp_path / "source", (7, 7))
    plan = FilePlan(name="model.safetensors", header=b"{}", tensors=(), starts=(), size_bytes=2)

    def taken(*, version: str = "1", options: dict[str, object] | None = None, layout: FilePlan = plan) -> Any:
        sources = [str(tmp_path / "source")]
        return fingerprint(
            version=version, options=options or {"dtype": "fp32"}, sources=sources, layout=[layout], sharing=None
        )

    before = taken()
    refuse_other(before, taken(), "here")
    other_header = FilePlan(name="model.safetensors", header=b"[]", tensors=(), starts=(), size_bytes=2)
    for change in ({"version": "2"}, {"options": {"dtype": "bf16"}}, {"layout": other_header}):
        with pytest.raises(BadOption, match="--restart"):
            refuse_other(before, taken(**change), "here")
    with pytest.raises(BadOption, match=r"--adapter is new; of_old_releases is new"):
        refuse_other(before, taken(options={"dtype": "fp32", "adapters": ["a"], "of_old_releases": 1}), "here")
    (tmp_path / "source").write_bytes(b"123")
    os.utime(tmp_path / "source", (7, 7))  # grown within one tick of the clock
    with pytest.raises(BadOption, match=r"source was bytes 2.*is bytes 3"):
        refuse_other(before, taken(), "here")


# --- the lock


def test_a_lock_on_a_file_that_was_taken_away_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who had it takes the folder away between the other's opening and locking: the other must lock anew."""
    path, true, taken = tmp_path / "lock", fcntl.flock, []

    def flock(fd: int, how: int) -> None:
        if not taken:
            taken.append(fd)
            path.unlink()
        true(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    first = Lock(str(path))
    monkeypatch.undo()
    with pytest.raises(OutputExists, match="another conversion"):
        Lock(str(path))
    first.release()
    Lock(str(path)).release()


def test_a_file_system_without_locks_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(fd: int, how: int) -> None:
        raise OSError(errno.ENOSYS, "no locks here")

    monkeypatch.setattr(fcntl, "flock", flock)
    one, other = Lock(str(tmp_path / "lock")), Lock(str(tmp_path / "lock"))
    one.release()
    other.release()


# --- room


class Disk:
    """What `statvfs` says: free blocks and inodes. `f_files` 0: it makes inodes when it needs them."""

    f_frsize, f_flag = 4096, 0

    def __init__(self, blocks: int, inodes: int, *, counts_inodes: bool = True) -> None:
        self.f_bavail, self.f_favail, self.f_files = blocks, inodes, 1000 * counts_inodes


def test_room_is_asked_for_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier run has staged is counted in: it need not be free once more."""
    leave(tmp_path / "out", "a")
    monkeypatch.setattr(stage.os, "statvfs", lambda _: Disk(10, 100))
    with staged(tmp_path / "out") as again:
        again.need({"a": 8 * 4096 + SIZE})
        with pytest.raises(OutputFailed, match="too little room"):
            again.need({"a": 10 * 4096 + 2 * SIZE})


def test_small_files_take_whole_blocks_and_folders_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 files of a block each in six folders; ten blocks are for what is written down of them."""
    sizes = {f"a/{n // 4}/{n}": 1 for n in range(20)}
    monkeypatch.setattr(stage.os, "statvfs", lambda _: Disk(42, 100))
    refuse_unwritable(str(tmp_path / "out"), sizes)
    monkeypatch.setattr(stage.os, "statvfs", lambda _: Disk(41, 100))
    with pytest.raises(OutputFailed, match="the disk has too little room; expected 172 KB free, got 168 KB"):
        refuse_unwritable(str(tmp_path / "out"), sizes)


def test_files_need_inodes_where_they_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {f"a/{n}": 1 for n in range(20)}
    monkeypatch.setattr(stage.os, "statvfs", lambda _: Disk(1000, 22))
    refuse_unwritable(str(tmp_path / "out"), sizes)
    monkeypatch.setattr(stage.os, "statvfs", lambda _: Disk(1000, 21))
    with pytest.raises(OutputFailed, match="the disk has room for too few files; expected 22 free inodes, got 21"):
        refuse_unwritable(str(tmp_path / "out"), sizes)
    monkeypatch.setattr(stage.os, "statvfs", lambda _: Disk(1000, 0, counts_inodes=False))
    refuse_unwritable(str(tmp_path / "out"), sizes)


def test_what_workers_made_is_forgotten_before_it_is_cut_off(tmp_path: Path):
    """A crash may leave the file as long as it was, without what was in it."""
    with pytest.raises(KeyboardInterrupt), staged(tmp_path / "out") as half:
        half.made_before("model", SIZE)
        half.note(Stretch(file="model", start=0, stop=100), {})
        raise KeyboardInterrupt
    journal = tmp_path / "out/.zeroconsolidate/journal"
    assert read_progress(str(journal)).stretches == {"model": {(0, 100): {}}}
    with pytest.raises(KeyboardInterrupt), staged(tmp_path / "out") as half, half.weights("model", SIZE):
        assert read_progress(str(journal)).stretches == {}
        raise KeyboardInterrupt
