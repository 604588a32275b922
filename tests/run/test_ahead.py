"""What will be read is asked for beforehand: all of it, once, in order, and not more than is meant to wait."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from zero_model import Run, save

from zeroconsolidate import consolidate
from zeroconsolidate.errors import DamagedFile
from zeroconsolidate.run import ahead
from zeroconsolidate.run.ahead import Ahead
from zeroconsolidate.run.files import Files

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(
    not hasattr(os, "posix_fadvise"), reason="this system has no posix_fadvise: nothing is asked for"
)


class Asked:
    """In place of the kernel: what it was asked for, by descriptor."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ranges: list[tuple[int, int, int]] = []
        real = os.posix_fadvise

        def advise(fd: int, start: int, size_bytes: int, advice: int) -> None:
            if advice == os.POSIX_FADV_WILLNEED:
                self.ranges.append((fd, start, start + size_bytes))
            real(fd, start, size_bytes, advice)

        monkeypatch.setattr(os, "posix_fadvise", advise)

    def bytes_of(self, fd: int) -> list[int]:
        return [byte for known, start, stop in self.ranges if known == fd for byte in range(start, stop)]


@given(
    sizes=st.lists(st.integers(0, 50), max_size=8), window=st.integers(1, 60), piece=st.integers(1, 30), data=st.data()
)
def test_all_is_asked_for_once_and_in_order(sizes: list[int], window: int, piece: int, data: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ahead, "AHEAD_BYTES", window)
        patched.setattr(ahead, "_PIECE_BYTES", piece)
        seen: list[int] = []
        patched.setattr(os, "posix_fadvise", lambda _fd, start, size, _advice: seen.extend(range(start, start + size)))
        starts = [sum(sizes[:n]) for n in range(len(sizes))]
        extents = [("file", start, start + size) for start, size in zip(starts, sizes, strict=True)]
        asking = Ahead(extents, lambda _: 0)
        read = 0
        assert not seen
        while read < sum(sizes):
            step = data.draw(st.integers(1, 20))
            read = min(read + step, sum(sizes))
            asking.has_read(step)
            assert seen == list(range(len(seen)))
            assert min(read + window, sum(sizes)) <= len(seen) < read + step + window + piece
        assert len(seen) == sum(sizes)


def test_a_conversion_asks_for_what_it_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "AHEAD_BYTES", 1 << 14)
    save(
        Run(stage=3, world_size=2, groups=[{f"layers.{n}.weight": torch.randn(64, 64) for n in range(8)}]),
        tmp_path / "c",
    )
    asked = Asked(monkeypatch)
    consolidate(tmp_path / "c", tmp_path / "out", names="stored", reflink="never", check="none")
    found = {fd: asked.bytes_of(fd) for fd, _, _ in asked.ranges}
    assert all(len(set(each)) == len(each) for each in found.values())
    assert sum(map(len, found.values())) == 8 * 64 * 64 * 4


@pytest.mark.parametrize("error", [OSError(5, "it does not"), DamagedFile("it is gone")])
def test_what_cannot_be_asked_for_is_no_error(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(bytes(range(100)))
    path = str(tmp_path / "file")

    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, "posix_fadvise", fails)
    block = memoryview(bytearray(10))
    with Files() as files, files.expecting([(path, 0, 100), (str(tmp_path / "none"), 0, 10)]):
        files.read_into(path, 20, block)
        files.read_into(path, 30, block)
    assert bytes(block) == bytes(range(30, 40))


def test_a_file_that_is_gone_is_an_error_of_who_reads_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(100))
    there, gone = str(tmp_path / "file"), str(tmp_path / "gone")
    block = memoryview(bytearray(10))
    with Files() as files, files.expecting([(there, 0, 100), (gone, 0, 10)]):
        files.read_into(there, 0, block)
        with pytest.raises(DamagedFile, match="cannot be read any more"):
            files.read_into(gone, 0, block)


def test_threads_ask_for_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "AHEAD_BYTES", 100)
    monkeypatch.setattr(ahead, "_PIECE_BYTES", 7)
    (tmp_path / "file").write_bytes(bytes(10_000))
    path, asked = str(tmp_path / "file"), Asked(monkeypatch)
    with Files() as files, files.expecting([(path, 0, 10_000)]):

        def read(first: int) -> None:
            for start in range(first, 10_000, 40):
                files.read_into(path, start, memoryview(bytearray(10)))

        threads = [threading.Thread(target=read, args=(10 * n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        ((fd, _, _), *_) = asked.ranges
        found = asked.bytes_of(fd)
    assert found == list(range(len(found)))
    assert len(found) >= 9_900  # the last reads may find another thread asking


def test_nothing_is_asked_for_before_something_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(bytes(100))
    asked = Asked(monkeypatch)
    with Files() as files, files.expecting([(str(tmp_path / "file"), 0, 100)]):
        assert not asked.ranges


def test_a_system_that_cannot_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fadvise")
    (tmp_path / "file").write_bytes(bytes(range(100)))
    block = memoryview(bytearray(10))
    with Files() as files, files.expecting([(str(tmp_path / "file"), 0, 100)]):
        files.read_into(str(tmp_path / "file"), 20, block)
    assert bytes(block) == bytes(range(20, 30))
