"""With `--drop-cache` the page cache holds neither the checkpoint nor the output, as mincore(2) tells."""

from __future__ import annotations

import ctypes
import itertools
import mmap
import os
from typing import TYPE_CHECKING, Any

import pytest
from cloned import checkpoint_in
from folders import contents
from hypothesis import given
from hypothesis import strategies as st

import zeroconsolidate
from zeroconsolidate.run import local, page_cache
from zeroconsolidate.run.clone import Means
from zeroconsolidate.run.local import LocalFiles
from zeroconsolidate.run.local_output import LocalOutput
from zeroconsolidate.run.page_cache import Trail, drop, drop_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

needs_the_call = pytest.mark.skipif(
    not page_cache.IS_THERE, reason="this system has no posix_fadvise, so --drop-cache does nothing here, and says so"
)
PAGE = mmap.PAGESIZE
LIBC = ctypes.CDLL(None, use_errno=True)


def pages(path: Path) -> list[bool]:
    """Of each page of the file, whether it is in memory."""
    size_bytes = path.stat().st_size
    found = (ctypes.c_ubyte * -(-size_bytes // PAGE))()
    with path.open("r+b") as file, mmap.mmap(file.fileno(), size_bytes) as mapped:
        # A mapping is made without touching its pages.
        first = ctypes.c_char.from_buffer(mapped)
        address, length = ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(size_bytes)
        failed = LIBC.mincore(address, length, found)
        del first
    assert not failed, os.strerror(ctypes.get_errno())
    return [bool(each & 1) for each in found]


def resident_bytes(paths: Iterable[Path]) -> int:
    return sum(PAGE * sum(pages(path)) for path in paths)


def cached(paths: Iterable[Path]) -> None:
    """All of it is on the disk, and in memory: in pages of which each can be dropped without its neighbours."""
    for path in paths:
        with path.open("rb", buffering=0) as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            while file.read(PAGE):
                pass


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A folder on a file system that has a page cache to drop from."""
    path = tmp_path / "probe"
    path.write_bytes(bytes(16 * PAGE))
    cached([path])
    assert all(pages(path))
    drop_file(str(path))
    if any(pages(path)):
        pytest.skip("the file system of the temporary folder keeps its pages in memory")
    path.unlink()
    return tmp_path


@pytest.fixture
def file(disk: Path) -> Path:
    """8 MiB and a byte, all of it in memory."""
    path = disk / "in"
    path.write_bytes(bytes(range(256)) * (8 << 12) + b"x")
    cached([path])
    return path


@needs_the_call
class TestTrail:
    def advised(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
        """What is dropped from here on, as (first, last) page."""
        told: list[tuple[int, int]] = []

        def advise(_fd: int, start: int, size_bytes: int, _advice: int) -> None:
            assert start % PAGE == size_bytes % PAGE == 0
            told.append((start // PAGE, (start + size_bytes) // PAGE - 1))

        monkeypatch.setattr(os, "posix_fadvise", advise)
        return told

    def test_a_step_ends_in_front_of_the_page_that_is_not_touched_whole(self, monkeypatch: pytest.MonkeyPatch) -> None:
        told, trail, step = self.advised(monkeypatch), Trail(), page_cache.STEP_BYTES
        trail.touched(0, 0, step - 5)
        assert told == []
        trail.touched(0, step - 5, step + 10)
        assert told == [(0, step // PAGE - 1)]
        trail.end(0)
        assert told[1:] == [(0, step // PAGE)]

    def test_a_jump_drops_what_was_left(self, monkeypatch: pytest.MonkeyPatch) -> None:
        told, trail = self.advised(monkeypatch), Trail()
        trail.touched(0, PAGE + 1, PAGE + 2)
        trail.touched(0, 9 * PAGE, 9 * PAGE + 1)
        assert told == [(1, 1)]
        trail.pause(0)
        assert told == [(1, 1)]
        trail.end(0)
        assert told[1:] == [(1, 1), (9, 9)]

    def test_what_the_kernel_keeps_as_one_is_dropped_as_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        told, trail, step = self.advised(monkeypatch), Trail(), page_cache.STEP_BYTES
        for start in range(0, 5 * step, step):
            trail.touched(0, start, start + step)
        assert [first * PAGE for first, _ in told] == [0, 0, 0, step, 2 * step]
        assert [(last + 1) * PAGE for _, last in told] == [step, 2 * step, 3 * step, 4 * step, 5 * step]

    @given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12)), min_size=1))
    def test_in_the_end_all_that_was_touched_is_dropped_and_nothing_else(self, ranges: list[tuple[int, int]]) -> None:
        with pytest.MonkeyPatch.context() as monkeypatch:
            told, trail = self.advised(monkeypatch), Trail()
            touched: set[int] = set()
            for first, count in ranges:
                start, stop = first * PAGE // 4, (first + count) * PAGE // 4
                trail.touched(0, start, stop)
                touched |= set(range(start // PAGE, (stop - 1) // PAGE + 1))
            assert {page for first, last in told for page in range(first, last + 1)} <= touched
            told.clear()
            trail.end(0)
        pages = [page for first, last in told for page in range(first, last + 1)]
        assert pages == sorted(touched)
        assert all(one[1] + 1 < two[0] for one, two in itertools.pairwise(told))

    def test_nothing_is_not_everything(self, monkeypatch: pytest.MonkeyPatch) -> None:
        told = self.advised(monkeypatch)
        drop(0, 0, 0)
        drop(0, PAGE, PAGE)
        assert told == []

    def test_advice_that_is_not_taken_is_no_error(self) -> None:
        read, write = os.pipe()
        drop(read)
        os.close(read)
        os.close(write)
        drop_file("/no/such/file")


@needs_the_call
class TestFiles:
    def read(self, files: LocalFiles, path: Path, start: int, stop: int) -> None:
        buffer = bytearray(stop - start)
        files.read_into(str(path), start, memoryview(buffer))
        assert buffer == path_bytes(path, start, stop)

    def test_what_is_read_is_dropped_and_what_lies_beside_it_is_not(self, file: Path) -> None:
        half = (4 << 20) + 100
        with LocalFiles(drop_cache=True) as files:
            for start in range(PAGE, half, 1 << 18):
                buffer = bytearray(min(1 << 18, half - start))
                files.read_into(str(file), start, memoryview(buffer))
        here, behind = pages(file)[: half // PAGE + 1], pages(file)[half // PAGE + 1 :]
        assert here == [True] + [False] * (len(here) - 1)
        assert all(behind)

    def test_without_the_option_all_of_it_stays(self, file: Path) -> None:
        with LocalFiles() as files:
            buffer = bytearray(8 << 20)
            files.read_into(str(file), 0, memoryview(buffer))
        assert all(pages(file))

    def test_runs_that_are_mapped(self, file: Path) -> None:
        with LocalFiles(drop_cache=True) as files:
            buffer = bytearray(1024 * 64)
            files.read_runs(str(file), 0, run_bytes=64, step_bytes=8192, count=1024, buffer=memoryview(buffer))
        assert bytes(buffer) == bytes(range(64)) * 1024
        assert pages(file)[: 1023 * 2 + 1] == [False] * (1023 * 2 + 1)
        assert all(pages(file)[1023 * 2 + 1 :])

    def test_a_file_that_is_closed_for_others(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(local, "MAX_OPEN", 1)
        other = file.with_name("other")
        other.write_bytes(b"y")
        with LocalFiles(drop_cache=True) as files:
            for start in range(0, 8 << 20, 1 << 16):
                buffer = memoryview(bytearray(1 << 16))
                files.read_into(str(file), start, buffer)
                files.read_into(str(other), 0, buffer[:1])
        assert sum(pages(file)) <= 2

    def test_what_the_kernel_copies(self, file: Path, disk: Path) -> None:
        with LocalFiles(drop_cache=True) as files, (disk / "out").open("w+b") as out:
            output = LocalOutput("out", out.fileno(), start=0, means=Means(drop_cache=True))
            done = output.copy_from(files, str(file), 0, 8 << 20, 0)
            if not done:
                pytest.skip("the kernel does not copy here")
            os.fsync(out.fileno())
            output.synced(done)
        assert resident_bytes([file, disk / "out"]) <= 2 * PAGE


def path_bytes(path: Path, start: int, stop: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(stop - start)


CASES: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "fp32": (zeroconsolidate.consolidate, {}),
    "fp32 through blocks": (zeroconsolidate.consolidate, {"reflink": "never"}),
    "bf16 in threads, with digests": (
        zeroconsolidate.consolidate, {"dtype": "bf16", "workers": 2, "digest": "sha256", "max_shard_size": "3MB"},
    ),
    "universal": (zeroconsolidate.universal, {}),
}  # fmt: skip


@needs_the_call
class TestVerbs:
    @pytest.mark.parametrize("stage", [2, 3])
    @pytest.mark.parametrize("case", CASES)
    def test_neither_checkpoint_nor_output_stays(self, disk: Path, case: str, stage: int) -> None:
        verb, options = CASES[case]
        checkpoint = checkpoint_in(disk, stage=stage)
        inputs = list(checkpoint.rglob("*.pt"))
        size_bytes = sum(path.stat().st_size for path in inputs)

        def made(name: str, **more: Any) -> tuple[int, int, dict[str, bytes]]:
            cached(inputs)
            for path in inputs:
                drop_file(str(path))
            assert resident_bytes(inputs) == 0
            verb(checkpoint, disk / name, **options, **more)
            weights = [path for path in (disk / name).rglob("*") if path.suffix in (".safetensors", ".pt")]
            return resident_bytes(inputs), resident_bytes(weights), contents(disk / name)

        read, written, without = made("without")
        assert read > size_bytes / 4
        assert written > size_bytes / 16
        read, written, with_it = made("with", drop_cache=True)
        assert read < size_bytes / 16
        assert written == 0
        assert with_it == without


def test_where_the_system_has_no_such_call_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = checkpoint_in(tmp_path, stage=2, megabytes=1)
    monkeypatch.setattr(page_cache, "IS_THERE", False)
    monkeypatch.delattr(os, "posix_fadvise", raising=False)
    said = "--drop-cache does nothing: this system has no posix_fadvise"
    report = zeroconsolidate.consolidate(checkpoint, tmp_path / "out", drop_cache=True)
    assert report.warnings.count(said) == 1
    assert contents(tmp_path / "out")
    part = zeroconsolidate.consolidate_part(checkpoint, tmp_path / "parts", "1/2", drop_cache=True)
    assert part.warnings.count(said) == 1
    assert zeroconsolidate.universal(checkpoint, tmp_path / "universal", drop_cache=True).warnings.count(said) == 1
    report = zeroconsolidate.consolidate(checkpoint, tmp_path / "other")
    assert not any("drop-cache" in text for text in report.warnings)
