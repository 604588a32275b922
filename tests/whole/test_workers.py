"""Several threads make the output that one makes: of all kinds, and one continues what others began."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import struct
import sys
import threading
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from fixtures import FIXTURES
from folders import contents

from zeroconsolidate import consolidate, estimate, universal, verify, verify_source
from zeroconsolidate.audit import source
from zeroconsolidate.errors import BadOption, DamagedFile, OutputFailed, WitnessMismatch
from zeroconsolidate.outputs import weights
from zeroconsolidate.run import compare as comparing
from zeroconsolidate.run import execute as executor
from zeroconsolidate.run import inputs
from zeroconsolidate.write import part

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zeroconsolidate import Verification

BASES = FIXTURES / "models" / "_bases"
CASES = {
    "fp32": (FIXTURES / "z3_w3", {}),
    "bf16": (FIXTURES / "z2_fp32", {"dtype": "bf16"}),
    "fp16 in shards, with digests": (
        FIXTURES / "z3_bf16",
        {"dtype": "fp16", "max_shard_size": "1KB", "digest": "sha256"},
    ),
    "merged": (FIXTURES / "models" / "lora_z3", {"lora": "merge", "dtype": "bf16", "base": BASES / "llama"}),
    "merged by rows and tokens": (FIXTURES / "models" / "lora_tokens_z2", {"lora": "merge", "base": BASES / "qwen2"}),
    "DoRA": (FIXTURES / "models" / "dora_z2", {"lora": "merge", "base": BASES / "llama"}),
    "experts": (FIXTURES / "models" / "mixtral_z3", {"dtype": "bf16"}),
    "all compared": (FIXTURES / "z2_bf16", {"check": "all"}),
    "replicas compared": (FIXTURES / "layouts" / "megatron_tp2_z1", {"check": "all"}),
}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "BLOCK_BYTES", 256)
    monkeypatch.setattr(executor, "PIECE_BYTES", 1024)
    monkeypatch.setattr(comparing, "BLOCK_BYTES", 32)
    monkeypatch.setattr(comparing, "PIECE_BYTES", 128)
    monkeypatch.setattr(source, "PIECE_BYTES", 128)


@pytest.mark.parametrize("case", CASES)
def test_the_output_is_the_same(case: str, tmp_path: Path):
    fixture, options = CASES[case]
    for workers in (1, 2, 5):
        consolidate(fixture / "checkpoint", tmp_path / str(workers), workers=workers, **options)
    alone = contents(tmp_path / "1")
    assert contents(tmp_path / "2") == alone
    assert contents(tmp_path / "5") == alone


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (2, 2)])
def test_it_is_continued_with_another_number(before: int, after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(part, "SYNC_BYTES", 512)
    checkpoint, options = FIXTURES / "z2_fp32" / "checkpoint", {"dtype": "bf16"}
    consolidate(checkpoint, tmp_path / "straight", **options)

    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        consolidate(checkpoint, tmp_path / "out", workers=before, progress=stop, **options)
    report = consolidate(checkpoint, tmp_path / "out", workers=after, **options)
    assert report.resumed_bytes > 0
    assert contents(tmp_path / "out") == contents(tmp_path / "straight")
    assert verify(tmp_path / "out", against=checkpoint).ok


MIDDLE = 5000
"""Of files of 8 KB of weights."""


class TestErrors:
    """One thread fails while others go on writing, beyond what the first has left out."""

    @pytest.fixture(autouse=True)
    def often(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(part, "SYNC_BYTES", 1 << 10)

    CHECKPOINT = FIXTURES / "models/llm_untied_z2/checkpoint"
    OPTIONS: ClassVar[dict[str, Any]] = {
        "dtype": "bf16", "max_shard_size": "8KB", "reflink": "never", "check": "none"
    }  # fmt: skip

    def failed_while_others_wrote(
        self, call: str, name: str, number: int, said: str, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The first such call of a worker behind the middle of a file with this name fails, when another worker has
        written meanwhile."""
        read, write = os.preadv, os.pwrite
        begun, beyond = threading.Event(), threading.Event()
        calls: list[int] = []

        def pwrite(fd: int, data: memoryview, start: int) -> int:
            if call == "pwrite" and is_the_one(fd, start):
                fail()
            done = write(fd, data, start)
            if begun.is_set():
                beyond.set()
            return done

        def is_the_one(fd: int, start: int) -> bool:
            is_there = name in os.readlink(f"/proc/self/fd/{fd}") and start >= MIDDLE
            if not is_there or not threading.current_thread().name.endswith("worker"):
                return False
            calls.append(start)
            return len(calls) == 1

        def fail() -> None:
            begun.set()
            assert beyond.wait(30)
            raise OSError(number, os.strerror(number))

        def preadv(fd: int, buffers: list[memoryview], start: int) -> int:
            if call == "preadv" and is_the_one(fd, start):
                fail()
            return read(fd, buffers, start)

        with monkeypatch.context() as patch, pytest.raises((OutputFailed, DamagedFile), match=said):
            patch.setattr(os, "pwrite", pwrite)
            patch.setattr(os, "preadv", preadv)
            consolidate(self.CHECKPOINT, out, workers=3, **self.OPTIONS)
        assert beyond.is_set()

    def continued(self, out: Path, tmp_path: Path) -> int:
        """How many bytes were left: all is as if nothing had failed."""
        assert not [*out.glob("*.safetensors"), *out.glob("*.json")]
        assert not [thread for thread in threading.enumerate() if thread.name == "zeroconsolidate-worker"]
        report = consolidate(self.CHECKPOINT, out, workers=2, **self.OPTIONS)
        consolidate(self.CHECKPOINT, tmp_path / "straight", workers=1, **self.OPTIONS)
        assert contents(out) == contents(tmp_path / "straight")
        assert verify(out, against=self.CHECKPOINT).ok
        return report.resumed_bytes

    @pytest.mark.parametrize("shard", [1, 2])
    def test_a_disk_that_is_full_in_one_of_the_files(self, shard: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        out = tmp_path / "out"
        self.failed_while_others_wrote(
            "pwrite", f"model-{shard:05}-of", errno.ENOSPC, "the disk is full", out, monkeypatch
        )
        resumed_bytes = self.continued(out, tmp_path)
        first = next((tmp_path / "straight").glob("model-00001-of-*")).stat().st_size
        assert (0, first)[shard - 1] < resumed_bytes < (first, 2 * first)[shard - 1]

    def test_an_input_that_cannot_be_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        out, said = tmp_path / "out", "the file cannot be read: input/output error"
        self.failed_while_others_wrote("preadv", "optim_states.pt", errno.EIO, said, out, monkeypatch)
        self.continued(out, tmp_path)

    def test_a_sync_that_fails(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """It runs in a thread of its own, beside those that write."""
        fsync, failed = os.fsync, threading.Event()

        def refused(fd: int) -> None:
            if "model-00002-of" in os.readlink(f"/proc/self/fd/{fd}") and not failed.is_set():
                failed.set()
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            fsync(fd)

        with monkeypatch.context() as patch, pytest.raises(OutputFailed, match="input/output error"):
            patch.setattr(os, "fsync", refused)
            consolidate(self.CHECKPOINT, tmp_path / "out", workers=3, **self.OPTIONS)
        assert failed.is_set()
        assert self.continued(tmp_path / "out", tmp_path) > 0


def test_auto_is_one_for_each_processor_where_something_is_computed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(weights, "processors", lambda: 6)
    checkpoint = FIXTURES / "z2_fp32" / "checkpoint"

    def memory(**options: Any) -> int:
        return estimate(checkpoint, **options).peak_memory_bytes

    assert memory(dtype="bf16") == memory(dtype="bf16", workers=6) > memory(dtype="bf16", workers=1)
    assert memory() == memory(workers=1)


@pytest.mark.parametrize("workers", [0, -1, 65, "many", "2.5", True, 1.0])
def test_what_is_no_number_of_threads_is_refused(workers: Any, tmp_path: Path):
    with pytest.raises(BadOption, match=r"^workers takes a number from 1 to 64, or auto"):
        consolidate(FIXTURES / "z2_fp32" / "checkpoint", tmp_path / "out", workers=workers)
    assert not (tmp_path / "out").exists()


def test_the_number_is_not_part_of_the_output(tmp_path: Path):
    consolidate(FIXTURES / "z2_fp32" / "checkpoint", tmp_path / "out", workers=3)
    assert "workers" not in json.loads((tmp_path / "out" / "zeroconsolidate.json").read_text())["options"]


def flip(path: Path, *positions: int) -> None:
    data = bytearray(path.read_bytes())
    for position in positions:
        data[position] ^= 0xFF
    path.write_bytes(data)


def spoil(path: Path, step: int) -> None:
    """Change bytes in the largest tensors of a file of torch."""
    with zipfile.ZipFile(path) as file:
        tensors = [info for info in file.infolist() if "/data/" in info.filename]
    data = path.read_bytes()
    for info in tensors:
        if info.file_size == max(info.file_size for info in tensors):
            names = struct.unpack_from("<2H", data, info.header_offset + 26)
            start = info.header_offset + 30 + sum(names)
            flip(path, *range(start + 3, start + info.file_size, step))


def all_found(check: Callable[..., Verification], *paths: Path, **options: Any) -> Verification:
    """What is found, the same with any number of threads."""
    alone, *others = (replace(check(*paths, workers=workers, **options), seconds=0.0) for workers in (1, 2, 5))
    assert all(other == alone for other in others)
    return alone


class TestVerify:
    """What is wrong, in which order, and what was read does not depend on the number of threads."""

    def test_a_model_by_itself(self, tmp_path: Path):
        out = tmp_path / "out"
        consolidate(FIXTURES / "z3_bf16" / "checkpoint", out, max_shard_size="1KB", digest="sha256")
        assert all_found(verify, out).ok
        shards = sorted(out.glob("*.safetensors"))
        for shard in shards[1::2]:
            flip(shard, -1)
        os.truncate(shards[0], shards[0].stat().st_size - 4)
        found = all_found(verify, out)
        named = [problem for problem in found.problems if "sha256 differs" in problem]
        assert [problem.split(":")[0] for problem in named] == sorted(p.name for p in {shards[0], *shards[1::2]})

    @pytest.mark.parametrize("case", ["z2_bf16", "z3_w3"])
    def test_a_model_against_its_checkpoint(self, case: str, tmp_path: Path):
        checkpoint, out = FIXTURES / case / "checkpoint", tmp_path / "out"
        consolidate(checkpoint, out)
        assert all_found(verify, out, against=checkpoint).ok
        data = (out / "model.safetensors").read_bytes()
        (header_bytes,) = struct.unpack_from("<Q", data)
        header = json.loads(data[8 : 8 + header_bytes])
        # The first byte of each: the pieces behind it are as they should be.
        flip(
            out / "model.safetensors",
            *(8 + header_bytes + header[name]["data_offsets"][0] for name in header if name != "__metadata__"),
        )
        found = all_found(verify, out, against=checkpoint)
        assert len(found.problems) == found.tensors
        first = re.compile(r"differs first at element \[(0(, 0)*)?\]")  # of a scalar there is no index
        assert all(first.search(problem) for problem in found.problems)

    @pytest.mark.parametrize("case", ["z1_fp16", "z2_bf16", "z3_w3", "layouts/megatron_tp2_z1"])
    def test_a_checkpoint(self, case: str, tmp_path: Path):
        shutil.copytree(FIXTURES / case / "checkpoint", tmp_path / "checkpoint")
        assert all_found(verify_source, tmp_path / "checkpoint").ok
        for path in (tmp_path / "checkpoint").glob("*/*optim_states.pt"):
            spoil(path, 100)
        found = all_found(verify_source, tmp_path / "checkpoint")
        assert sum("CRC-32 is wrong" in problem for problem in found.problems) > 1

    def test_a_universal_checkpoint(self, tmp_path: Path):
        checkpoint, out = FIXTURES / "z2_bf16" / "checkpoint", tmp_path / "out"
        universal(checkpoint, out)
        assert all_found(verify, out).ok
        assert all_found(verify, out, against=checkpoint).ok
        fragments = sorted(out.glob("*/zero/*/exp_avg.pt"))
        for fragment in fragments:
            spoil(fragment, 1000)
        assert len(all_found(verify, out).problems) == len(fragments)
        all_found(verify, out, against=checkpoint)


def test_the_first_master_that_differs_is_told(tmp_path: Path):
    shutil.copytree(FIXTURES / "z2_bf16" / "checkpoint", tmp_path / "checkpoint")
    (path,) = (tmp_path / "checkpoint").glob("*/mp_rank_00_model_states.pt")
    spoil(path, 50)
    told = set()
    for workers in (1, 2, 5):
        with pytest.raises(WitnessMismatch) as raised:
            consolidate(tmp_path / "checkpoint", tmp_path / "out", check="all", workers=workers)
        told.add(str(raised.value))
    assert len(told) == 1
    assert not (tmp_path / "out").exists()


def test_the_callers_thread_reports(tmp_path: Path):
    """A callback that raises, or draws, is not called from a thread that it does not know."""
    consolidate(FIXTURES / "z3_bf16" / "checkpoint", tmp_path / "out", max_shard_size="1KB", digest="sha256")
    told: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        told.append((done, total))
        if done > total // 2:
            raise KeyboardInterrupt

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with pytest.raises(KeyboardInterrupt):
            verify(tmp_path / "out", workers=4, progress=stop)
    finally:
        sys.setswitchinterval(before)
    assert told == sorted(told)


@pytest.mark.parametrize(("usable", "taken"), [(1, 1), (2, 2), (8, 8), (64, 8)])
def test_not_all_processors_of_a_large_machine_are_taken(
    usable: int, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(usable)), raising=False)
    monkeypatch.setattr(inputs, "allowed", lambda: None)
    assert inputs.processors() == taken


def test_a_limit_of_processor_time_is_kept_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(inputs, "allowed", lambda: 2)
    assert inputs.processors() == 2
