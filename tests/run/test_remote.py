"""Requests that run ahead: which bytes are requested, how many are held, and what a reader gets."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import fsspec
import pytest
from counted_store import CountedFileSystem
from hypothesis import given
from hypothesis import strategies as st

from zeroconsolidate.errors import DamagedFile, StoreFailed
from zeroconsolidate.integrations import object_stores, store_calls
from zeroconsolidate.run import remote
from zeroconsolidate.run.files import Files
from zeroconsolidate.run.remote import RemoteFiles, put_together

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA = {name: os.urandom(3_000_000 + index) for index, name in enumerate("abc")}


@pytest.fixture(autouse=True)
def store() -> Iterator[type[CountedFileSystem]]:
    CountedFileSystem.clear()
    for name, data in DATA.items():
        fsspec.filesystem("counted").pipe_file(f"/bucket/{name}", data)
    object_stores.store_of("counted://bucket").forget()
    yield CountedFileSystem
    CountedFileSystem.clear()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window that a test can fill."""
    monkeypatch.setattr(remote, "PIECE_BYTES", 64 << 10)
    monkeypatch.setattr(remote, "WINDOW_BYTES", 512 << 10)
    monkeypatch.setattr(remote, "_BATCH_BYTES", 128 << 10)


def read(files: RemoteFiles | Files, name: str, start: int, stop: int) -> bytes:
    buffer = bytearray(stop - start)
    files.read_into(f"counted://bucket/{name}", start, memoryview(buffer))
    return bytes(buffer)


class TestAhead:
    @pytest.mark.usefixtures("small")
    def test_what_is_announced_is_requested_once_and_comes_right(self, store: type[CountedFileSystem]):
        extents = [(name, start, start + 10_000) for start in range(0, 2_900_000, 10_000) for name in "abc"]
        files = RemoteFiles()
        with files.expecting((f"counted://bucket/{name}", start, stop) for name, start, stop in extents):
            for name, start, stop in extents:
                assert read(files, name, start, stop) == DATA[name][start:stop]
        assert store.requested_bytes() == sum(stop - start for _, start, stop in extents)
        assert len(store.ranges) < len(extents) / 2  # those side by side in one file came together

    @pytest.mark.usefixtures("small")
    def test_no_more_is_requested_than_the_window_holds(self, store: type[CountedFileSystem]):
        files = RemoteFiles()
        with files.expecting([("counted://bucket/a", 0, 3_000_000)]):
            assert read(files, "a", 0, 10) == DATA["a"][:10]
            held = files._ahead[0]
            for pieces in held._pieces.values():
                for requested in [piece.data for piece in pieces if piece.data is not None]:
                    requested.result()
            assert remote.WINDOW_BYTES * 3 / 4 <= store.requested_bytes() <= remote.WINDOW_BYTES
            assert read(files, "a", 0, 3_000_000)[10:] == DATA["a"][10:3_000_000]
        assert files._ahead == []

    @pytest.mark.usefixtures("small")
    def test_a_reader_that_jumps_forward_finds_it(self, store: type[CountedFileSystem]):
        files = RemoteFiles()
        with files.expecting([("counted://bucket/a", 0, 3_000_000)]):
            assert read(files, "a", 700_000, 700_100) == DATA["a"][700_000:700_100]
            assert read(files, "a", 2_900_000, 2_900_100) == DATA["a"][2_900_000:2_900_100]

    def test_what_was_not_announced_is_read_as_well(self, store: type[CountedFileSystem]):
        files = RemoteFiles()
        assert read(files, "b", 5, 2_000_000) == DATA["b"][5:2_000_000]
        assert store.ranges == [("/bucket/b", 5, 2_000_000)]

    def test_one_extent_that_two_readers_want_is_requested_once(self, store: type[CountedFileSystem]):
        files, wanted = RemoteFiles(), ("counted://bucket/a", 100, 200)
        with files.expecting([wanted, wanted]):
            assert read(files, "a", 100, 200) == read(files, "a", 100, 200) == DATA["a"][100:200]
        assert store.ranges == [("/bucket/a", 100, 200)]

    def test_two_that_read_at_a_time_have_what_each_has_announced(self, store: type[CountedFileSystem]):
        files = RemoteFiles()
        with files.expecting([("counted://bucket/a", 0, 1000)]), files.expecting([("counted://bucket/b", 0, 1000)]):
            assert read(files, "b", 0, 1000) == DATA["b"][:1000]
            assert read(files, "a", 0, 1000) == DATA["a"][:1000]
        assert store.requested_bytes() == 2000

    def test_local_extents_are_not_gone_through(self):
        def coming() -> Iterator[tuple[str, int, int]]:
            yield from (("/a/local/file", 0, 1) for _ in range(1000))
            pytest.fail("all of it was looked at")

        files = Files()
        with files.expecting(coming()):
            pass
        assert files._remote is None


class TestRuns:
    def test_runs_near_each_other_come_together(self, store: type[CountedFileSystem]):
        buffer = bytearray(40)
        RemoteFiles().read_runs(
            "counted://bucket/c", 7, run_bytes=4, step_bytes=100, count=10, buffer=memoryview(buffer)
        )
        assert bytes(buffer) == b"".join(DATA["c"][7 + 100 * run : 11 + 100 * run] for run in range(10))
        assert len(store.ranges) == 1

    def test_runs_far_apart_come_alone(self, store: type[CountedFileSystem]):
        buffer = bytearray(40)
        Files().read_runs("counted://bucket/c", 7, run_bytes=4, step_bytes=200_000, count=10, buffer=memoryview(buffer))
        assert bytes(buffer) == b"".join(DATA["c"][7 + 200_000 * run : 11 + 200_000 * run] for run in range(10))
        assert store.requested_bytes() == 40


class TestErrors:
    def test_a_file_that_ends_early(self):
        with pytest.raises(DamagedFile, match=r"ends too early; expected at least 4000000 bytes.*bucket/a"):
            read(RemoteFiles(), "a", 0, 4_000_000)
        with (
            pytest.raises(DamagedFile, match="ends too early"),
            RemoteFiles().expecting([("counted://bucket/a", 0, 4_000_000)]),
        ):
            pass

    def test_a_file_that_has_gone(self):
        with pytest.raises(DamagedFile, match="has gone"):
            read(RemoteFiles(), "z", 0, 1)

    def test_what_fails_now_and_then_is_tried_again(self, store: type[CountedFileSystem]):
        failures = iter([OSError("500"), TimeoutError(), ConnectionResetError()])

        def before(*_: object) -> None:
            error = next(failures, None)
            if error is not None:
                raise error

        store.before = staticmethod(before)
        assert read(RemoteFiles(), "a", 0, 100) == DATA["a"][:100]
        assert len(store.ranges) == 4

    def test_a_store_that_does_not_come_back_is_an_error(
        self, store: type[CountedFileSystem], monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(store_calls, "DEADLINE_SECONDS", 0.3)

        def before(*_: object) -> None:
            raise OSError("500 InternalError")

        store.before = staticmethod(before)
        with pytest.raises(StoreFailed, match=r"does not answer: OSError: 500 InternalError.*bucket/a"):
            read(RemoteFiles(), "a", 0, 100)

    def test_what_is_refused_is_not_tried_again(self, store: type[CountedFileSystem]):
        def before(*_: object) -> None:
            raise PermissionError("AccessDenied")

        store.before = staticmethod(before)
        with pytest.raises(StoreFailed, match=r"refuses access: PermissionError: AccessDenied; check the credentials"):
            read(RemoteFiles(), "a", 0, 100)
        assert len(store.ranges) == 1

    def test_bytes_that_are_missing_are_noticed(self, store: type[CountedFileSystem], monkeypatch: pytest.MonkeyPatch):
        """A client that takes the end of a connection for the end of the answer."""
        whole, short = store.cat_file, iter([True, True])

        def cat_file(self: CountedFileSystem, path: str, start: int, end: int) -> bytes:
            data = whole(self, path, start, end)
            return data[:-1] if next(short, False) else data

        monkeypatch.setattr(store, "cat_file", cat_file)
        assert read(RemoteFiles(), "a", 0, 100) == DATA["a"][:100]
        assert len(store.ranges) == 3


ranges = st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 3000)).map(lambda r: (r[0], r[0] + r[1])), min_size=1)


@given(ranges)
def test_requests_have_every_byte_that_is_needed_and_few_others(extents: list[tuple[int, int]]):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote, "PIECE_BYTES", 1000)
        requests = put_together(extents)
    requested = {byte for start, stop, _ in requests for byte in range(start, stop)}
    needed = {byte for start, stop in extents for byte in range(start, stop)}
    assert needed <= requested
    assert len(requested) <= len(needed) * (1 + 1 / 64)
    assert sum(stop - start for start, stop, _ in requests) == len(requested)  # none comes twice
    assert all(stop - start <= 1125 for start, stop, _ in requests)
    assert all(left > 0 for _, _, left in requests)
