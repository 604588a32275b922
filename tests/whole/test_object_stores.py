"""What a checkpoint in a store gives is what it gives on a disk. The store is in memory; real ones: tests/stores."""

from __future__ import annotations

import filecmp
import os
import shutil
from typing import TYPE_CHECKING

import fsspec
import pytest
import torch
from counted_store import CountedFileSystem, put
from fixtures import FIXTURES
from fixtures_lib.zoo import TinyLM
from synthetic import shapes_of, values_of, write

import zeroconsolidate
from zeroconsolidate.archive import remote as archive
from zeroconsolidate.errors import (
    BadOption,
    DamagedFile,
    MissingFiles,
    MissingPackage,
    NotACheckpoint,
    OutputExists,
    OutputFailed,
    StoreFailed,
)
from zeroconsolidate.integrations import object_stores, store_calls
from zeroconsolidate.write import remote_sending, staging, uploads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CASES = ["z1_bf16", "z2_groups", "z2_legacy", "z3_w12", "z3_frozen_tied", "trainer_zero2_bf16", "trainer_zero3_tied"]


@pytest.fixture(autouse=True)
def store() -> Iterator[type[CountedFileSystem]]:
    CountedFileSystem.clear()
    object_stores.store_of("counted://x").forget()
    yield CountedFileSystem
    CountedFileSystem.clear()


def in_store(case: str) -> str:
    return put(FIXTURES / case / "checkpoint", f"runs/{case}")


def same(one: Path, other: Path) -> None:
    """Two directories hold the same files; our own record aside, which has the times of neither."""
    names = sorted(str(path.relative_to(one)) for path in one.rglob("*") if path.is_file())
    assert names == sorted(str(path.relative_to(other)) for path in other.rglob("*") if path.is_file())
    assert filecmp.cmpfiles(one, other, names, shallow=False) == (names, [], [])


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("case", CASES)
def test_convert(case: str, dtype: str, tmp_path: Path):
    zeroconsolidate.consolidate(in_store(case), tmp_path / "a", dtype=dtype)
    zeroconsolidate.consolidate(FIXTURES / case / "checkpoint", tmp_path / "b", dtype=dtype)
    same(tmp_path / "a", tmp_path / "b")


def test_convert_with_threads_and_digests_and_all_comparisons(tmp_path: Path):
    options = {"dtype": "bf16", "workers": 3, "digest": "sha256", "check": "all", "max_shard_size": "20KB"}
    zeroconsolidate.consolidate(in_store("trainer_zero2_bf16"), tmp_path / "a", **options)
    zeroconsolidate.consolidate(FIXTURES / "trainer_zero2_bf16/checkpoint", tmp_path / "b", **options)
    same(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("case", ["z2_bf16", "trainer_zero3_tied"])
def test_universal(case: str, tmp_path: Path):
    zeroconsolidate.universal(in_store(case), tmp_path / "a")
    zeroconsolidate.universal(FIXTURES / case / "checkpoint", tmp_path / "b")
    same(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("case", CASES)
def test_inspect(case: str):
    there = zeroconsolidate.inspect(in_store(case)).to_dict()
    here = zeroconsolidate.inspect(FIXTURES / case / "checkpoint").to_dict()
    for each in (there, here):
        del each["root"], each["resume"]
    assert there == here


def test_a_run_directory(tmp_path: Path):
    for step in (2, 4):
        put(FIXTURES / "z3_bf16/checkpoint", f"runs/one/checkpoint-{step}")
    url = "counted://runs/one"
    assert [save.name for save in zeroconsolidate.inspect_run(url).saves] == ["checkpoint-2", "checkpoint-4"]
    report = zeroconsolidate.consolidate(url, tmp_path / "a", checkpoint="last-complete")
    assert report.tensors == 19


def test_verify():
    for case in ("z2_bf16", "trainer_zero3_tied"):
        here = zeroconsolidate.verify_source(FIXTURES / case / "checkpoint")
        there = zeroconsolidate.verify_source(in_store(case))
        assert there.ok
        assert there.checks == here.checks


def test_a_model_in_a_store_is_verified_as_well(tmp_path: Path):
    url = in_store("trainer_zero3_tied")
    zeroconsolidate.consolidate(url, tmp_path / "model", digest="sha256")
    model = put(tmp_path / "model", "models/one")
    assert zeroconsolidate.verify(model).ok
    assert zeroconsolidate.verify(model, against=url).ok
    weights = bytearray((tmp_path / "model/model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "model/model.safetensors").write_bytes(weights)
    put(tmp_path / "model", "models/one")
    object_stores.store_of(model).forget()
    assert not zeroconsolidate.verify(model).ok
    assert not zeroconsolidate.verify(model, against=url).ok


def test_a_universal_checkpoint_in_a_store_is_verified(tmp_path: Path):
    url = in_store("z2_bf16")
    zeroconsolidate.universal(url, tmp_path / "u")
    universal = put(tmp_path / "u", "models/u")
    assert zeroconsolidate.verify(universal).ok
    assert zeroconsolidate.verify(universal, against=url).ok
    assert zeroconsolidate.inspect(universal).tag == zeroconsolidate.inspect(str(tmp_path / "u")).tag


def test_open_checkpoint_and_load_into():
    url, path = in_store("z2_w3"), FIXTURES / "z2_w3/checkpoint"
    with zeroconsolidate.open_checkpoint(url) as there, zeroconsolidate.open_checkpoint(path) as here:
        assert list(there) == list(here)
        for name, tensor in here.items():
            assert torch.equal(there[name].load(), tensor.load())
        name = max(here, key=lambda name: here[name].numel)
        assert torch.equal(there[name][1:3], here[name][1:3])
        assert {name for name, _ in there.stream()} == set(here)
        assert there.optimizer_state(name)["exp_avg"].load().equal(here.optimizer_state(name)["exp_avg"].load())
        model, expected = TinyLM(), TinyLM()
        zeroconsolidate.load_into(model, url)
        zeroconsolidate.load_into(expected, path)
        assert all(map(torch.equal, model.state_dict().values(), expected.state_dict().values()))


def test_a_file_url_is_a_path(tmp_path: Path):
    shutil.copytree(FIXTURES / "z3_bf16/checkpoint", tmp_path / "a b")
    url = (tmp_path / "a b").as_uri()
    zeroconsolidate.consolidate(url, (tmp_path / "out").as_uri())
    assert zeroconsolidate.verify((tmp_path / "out").as_uri(), against=url).ok


class TestRequests:
    def test_no_more_is_requested_than_is_needed(self, store: type[CountedFileSystem], tmp_path: Path):
        """A checkpoint of 40 MB with moments: a third of it is weights."""
        write(tmp_path / "c", values_of(shapes_of(40)), stage=3, ranks=4, moments=True)
        url = put(tmp_path / "c", "runs/large")
        store.ranges.clear()
        report = zeroconsolidate.consolidate(url, tmp_path / "out", check="none")
        assert report.bytes_written <= store.requested_bytes() <= 1.02 * report.bytes_written + 16 * archive.END_BYTES
        assert len(store.ranges) < 80

    def test_metadata_take_two_requests_a_file_and_one_for_each_large_tensor(
        self, store: type[CountedFileSystem], tmp_path: Path
    ):
        write(tmp_path / "c", values_of(shapes_of(40)), stage=3, ranks=4, moments=True)
        url = put(tmp_path / "c", "runs/large")
        store.ranges.clear()
        zeroconsolidate.inspect(url)
        optimizer = [each for each in store.ranges if "optim_states" in each[0]]
        assert len(optimizer) <= 4 * (2 + 3)
        assert store.requested_bytes("optim_states") <= 4 * (2 * archive.END_BYTES + 3 * 256)


class TestErrors:
    def test_nothing_is_there(self):
        with pytest.raises(NotACheckpoint, match=r"no such directory.*counted://runs/none"):
            zeroconsolidate.inspect("counted://runs/none")

    def test_it_is_a_file(self):
        url = in_store("z3_bf16")
        with pytest.raises(NotACheckpoint, match="this is a file"):
            zeroconsolidate.inspect(f"{url}/latest")

    def test_a_file_is_missing(self):
        url = in_store("z2_w4")
        fsspec.filesystem("counted").rm("/runs/z2_w4/global_step2/bf16_zero_pp_rank_2_mp_rank_00_optim_states.pt")
        with pytest.raises(MissingFiles, match="1 of 4 ranks is incomplete"):
            zeroconsolidate.consolidate(url, "out")

    def test_an_outage_is_not_taken_for_damage(self, store: type[CountedFileSystem], monkeypatch: pytest.MonkeyPatch):
        """What cannot be asked for is neither missing nor lost: no rescue, no older save in its place."""
        for step in (2, 4):
            put(FIXTURES / "z3_bf16/checkpoint", f"runs/one/checkpoint-{step}")
        monkeypatch.setattr(store_calls, "DEADLINE_SECONDS", 0.2)

        def before(path: str, *_: object) -> None:
            if "checkpoint-4" in path and path.endswith("optim_states.pt"):
                raise OSError("503 SlowDown")

        store.before = staticmethod(before)
        for options in ({}, {"rescue": True}, {"tag": "last-complete"}):
            with pytest.raises(StoreFailed, match="does not answer: OSError: 503 SlowDown"):
                zeroconsolidate.consolidate("counted://runs/one/checkpoint-4", "out", **options)
        with pytest.raises(StoreFailed, match="does not answer"):
            zeroconsolidate.consolidate("counted://runs/one", "out", checkpoint="last-complete")
        assert not os.path.exists("out")

    def test_a_checkpoint_that_changes_while_it_is_read(self, store: type[CountedFileSystem], tmp_path: Path):
        write(tmp_path / "c", values_of(shapes_of(4)), stage=3, ranks=2)
        url, files = put(tmp_path / "c", "runs/large"), fsspec.filesystem("counted")
        (path,) = (path for path in files.find("/runs/large") if "rank_1" in path and "optim" in path)

        def before(file: str, start: int, stop: int) -> None:
            if file == path and stop - start > archive.END_BYTES * 4:
                store.before = staticmethod(lambda *_: None)
                files.pipe_file(path, files.cat_file(path))  # the same bytes, written again: half of it may be new

        store.before = staticmethod(before)
        with pytest.raises(DamagedFile, match=r"was changed while it was being converted.*rank_1"):
            zeroconsolidate.consolidate(url, tmp_path / "out")
        assert not (tmp_path / "out/model.safetensors").exists()

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda url: list(zeroconsolidate.watch(url)), "the models of a run that is watched"),
            (lambda url: zeroconsolidate.prune(url, keep=1), "a run directory that is pruned"),
            (lambda url: zeroconsolidate.consolidate(url, "out", base="s3://models/base"), "a base model must be on"),
        ],
    )
    def test_where_only_a_path_will_do(self, call, message: str):
        with pytest.raises(BadOption, match=message):
            call(in_store("z3_bf16"))

    def test_an_unknown_scheme(self):
        with pytest.raises(BadOption, match=r"no client is known for ftq:// URLs"):
            zeroconsolidate.inspect("ftq://runs/one")

    def test_a_client_that_is_not_installed(self):
        said = r"reading gs:// URLs needs gcsfs, which is not installed.*pip install 'zeroconsolidate\[gcs\]'"
        with pytest.raises(MissingPackage, match=said):
            zeroconsolidate.inspect("gs://runs/one")


def test_compare():
    url = in_store("trainer_zero3_tied")
    found = zeroconsolidate.compare(url, FIXTURES / "trainer_zero3_tied/checkpoint")
    assert found.equal


class TestOutput:
    """Stores that take streams: what is uploaded waits in the staging folder, and is copied to its name."""

    @pytest.fixture(autouse=True)
    def small_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(uploads, "part_bytes_of", lambda _: 8 << 10)
        monkeypatch.setattr(remote_sending, "part_bytes_of", lambda _: 8 << 10)

    def same(self, here: Path) -> None:
        files = {path.relative_to(here).as_posix(): path.read_bytes() for path in here.rglob("*") if path.is_file()}
        there = fsspec.filesystem("counted").find("/models/one")
        assert {path.removeprefix("/models/one/") for path in there} == set(files)
        assert {name: fsspec.filesystem("counted").cat_file(f"/models/one/{name}") for name in files} == files

    @pytest.mark.parametrize(
        "options",
        [{}, {"dtype": "bf16", "digest": "sha256", "workers": 2}, {"max_shard_size": "20KB", "optimizer": True}],
        ids=str,
    )
    def test_convert(self, options: dict[str, object], tmp_path: Path):
        checkpoint = FIXTURES / "trainer_zero3_tied/checkpoint"
        zeroconsolidate.consolidate(checkpoint, tmp_path / "here", **options)
        zeroconsolidate.consolidate(checkpoint, "counted://models/one", **options)
        self.same(tmp_path / "here")
        assert zeroconsolidate.verify("counted://models/one", against=checkpoint).ok
        with pytest.raises(OutputExists, match="not empty"):
            zeroconsolidate.consolidate(checkpoint, "counted://models/one", **options)
        zeroconsolidate.consolidate(checkpoint, "counted://models/one", overwrite=True, **options)
        self.same(tmp_path / "here")

    @pytest.mark.parametrize("writes", [1, 2, 4, 5, 6, 8, 9, 11, 13, 15, 17, 19, 21, 23])
    def test_stopped_anywhere_and_continued(
        self, writes: int, store: type[CountedFileSystem], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ):
        """Nothing incomplete has a name; the manifest comes last; the same call goes on."""
        checkpoint, options = FIXTURES / "trainer_zero3_tied/checkpoint", {"max_shard_size": "20KB"}
        zeroconsolidate.consolidate(checkpoint, tmp_path / "here", **options)
        done = 0

        def counted(write):
            def once(self, *arguments, **keywords):
                nonlocal done
                done += 1
                if done > writes:
                    raise PermissionError("ExpiredToken")
                return write(self, *arguments, **keywords)

            return once

        with monkeypatch.context() as patch:
            for name in ("pipe_file", "cp_file", "_rm", "_open"):
                patch.setattr(store, name, counted(getattr(store, name)))
            with pytest.raises(StoreFailed, match="refuses access"):
                zeroconsolidate.consolidate(checkpoint, "counted://models/one", **options)
        files = fsspec.filesystem("counted")
        there = [path for path in files.find("/models/one") if "/.zeroconsolidate/" not in path]
        assert "/models/one/zeroconsolidate.json" not in there
        for path in there:
            assert files.cat_file(path) == (tmp_path / "here" / path.removeprefix("/models/one/")).read_bytes()
        object_stores.store_of("counted://models").forget()
        zeroconsolidate.consolidate(checkpoint, "counted://models/one", **options)
        self.same(tmp_path / "here")

    def stop_at_publishing(self, store: type[CountedFileSystem], monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise PermissionError("ExpiredToken")

        with monkeypatch.context() as patch:
            patch.setattr(store, "cp_file", refuse)
            with pytest.raises(StoreFailed, match="with --abort it removes what has been uploaded"):
                zeroconsolidate.consolidate(FIXTURES / "trainer_zero3_tied/checkpoint", "counted://models/one")

    def test_an_interrupted_conversion_with_other_options(
        self, store: type[CountedFileSystem], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ):
        self.stop_at_publishing(store, monkeypatch)
        checkpoint = FIXTURES / "trainer_zero3_tied/checkpoint"
        with pytest.raises(BadOption, match="an interrupted conversion with other options"):
            zeroconsolidate.consolidate(checkpoint, "counted://models/one", dtype="bf16")
        zeroconsolidate.consolidate(checkpoint, "counted://models/one", dtype="bf16", restart=True)
        zeroconsolidate.consolidate(checkpoint, tmp_path / "here", dtype="bf16")
        self.same(tmp_path / "here")

    def test_a_store_that_has_another_file(self, store: type[CountedFileSystem], monkeypatch: pytest.MonkeyPatch):
        copied = store.cp_file

        def cp_file(self: CountedFileSystem, one: str, other: str, **how: object) -> None:
            copied(self, one, other, **how)
            if other.endswith(".safetensors"):
                self.pipe_file(other, self.cat_file(other)[:-1])

        monkeypatch.setattr(store, "cp_file", cp_file)
        with pytest.raises(OutputFailed, match=r"has another file than was sent; expected 56128 bytes, got 56127"):
            zeroconsolidate.consolidate(FIXTURES / "trainer_zero3_tied/checkpoint", "counted://models/one")
        assert "/models/one/zeroconsolidate.json" not in fsspec.filesystem("counted").find("/models/one")

    def test_abort_removes_what_is_staged_and_nothing_else(
        self, store: type[CountedFileSystem], monkeypatch: pytest.MonkeyPatch
    ):
        self.stop_at_publishing(store, monkeypatch)
        assert fsspec.filesystem("counted").find("/models/one")
        assert staging.abort("counted://models/one") > 5
        assert fsspec.filesystem("counted").find("/models/one") == []


def test_abort_on_a_disk(tmp_path: Path):
    stage = tmp_path / "out/.zeroconsolidate"
    (stage / "files").mkdir(parents=True)
    (stage / "files/model.safetensors").write_bytes(b"half")
    (tmp_path / "out/notes.txt").write_bytes(b"mine")
    assert staging.abort(str(tmp_path / "out")) == 1
    assert os.listdir(tmp_path / "out") == ["notes.txt"]
    assert staging.abort(str(tmp_path / "out")) == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda source, url: zeroconsolidate.consolidate_part(source, url, "1/2"),
        lambda source, url: zeroconsolidate.finish_parts(source, url),
        lambda source, url: zeroconsolidate.consolidate(source, url, executor="mpi"),
    ],
    ids=["part", "finish", "executor"],
)
def test_several_machines_cannot_share_a_stream(call: Callable[[Path, str], object]):
    with pytest.raises(BadOption, match=r"to other stores one machine sends a file.*got counted://models/one"):
        call(FIXTURES / "z3_bf16/checkpoint", "counted://models/one")
    assert CountedFileSystem.store == {}
