"""Reads and writes that are exact whatever the system does: short counts, refusals, files that end early."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from containers import saved

from zeroconsolidate.archive.places import look_of
from zeroconsolidate.dtypes import DType
from zeroconsolidate.errors import DamagedFile, OutputFailed, PlanBroken
from zeroconsolidate.plan.layout import TensorPlan, lay_out
from zeroconsolidate.plan.pieces import Copy, View
from zeroconsolidate.run import execute as executor
from zeroconsolidate.run import local
from zeroconsolidate.run.counts import Counts
from zeroconsolidate.run.execute import execute
from zeroconsolidate.run.inputs import Inputs
from zeroconsolidate.run.local import LocalFiles
from zeroconsolidate.run.local_output import LocalOutput
from zeroconsolidate.run.storage import copy_range

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from zeroconsolidate.plan.pieces import Recipe

DATA = bytes(range(256)) * 40


@pytest.fixture
def source(tmp_path: Path) -> str:
    (tmp_path / "in").write_bytes(DATA)
    return str(tmp_path / "in")


@pytest.fixture
def output(tmp_path: Path) -> Iterator[LocalOutput]:
    fd = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)
    yield LocalOutput(str(tmp_path / "out"), fd, start=0)
    os.close(fd)


def copied(source: str, file_start: int, size_bytes: int, output: LocalOutput, start: int) -> list[int]:
    """Copies, and returns how far it was called to be."""
    told: list[int] = []
    block = memoryview(bytearray(64))
    with LocalFiles() as files:
        copy_range(files, source, file_start, size_bytes, output, start, block=block, reached=told.append)
    return told


def refuse(number: int) -> Callable[..., int]:
    def copy_file_range(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    return copy_file_range


def a_little(*arguments: Any) -> int:
    source, target, size, at, to = arguments
    return os.pwrite(target, os.pread(source, min(size, 100), at), to)


@pytest.mark.parametrize(
    "kernel",
    [None, a_little, lambda *_: 0, refuse(errno.EXDEV), refuse(errno.EINVAL), refuse(errno.ENOSYS),
     refuse(errno.EOPNOTSUPP)],
    ids=["kernel", "a little", "nothing", "EXDEV", "EINVAL", "ENOSYS", "EOPNOTSUPP"],
)  # fmt: skip
def test_extents_are_copied_whatever_the_kernel_can(
    source: str, output: LocalOutput, tmp_path: Path, kernel: Any, monkeypatch: pytest.MonkeyPatch
):
    if kernel is not None:
        monkeypatch.setattr(os, "copy_file_range", kernel)
    told = copied(source, 3, 5000, output, 3)  # pages line up: the kernel's, if it can
    told += copied(source, 0, 10, output, 5003)  # they do not: ours
    assert (tmp_path / "out").read_bytes() == b"\0\0\0" + DATA[3:5003] + DATA[:10]
    assert told[-1] == 5013
    assert told == sorted(told)


def test_a_system_without_copy_file_range(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(os, "copy_file_range", raising=False)
    fd = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)
    copied(source, 0, 99, LocalOutput("out", fd, start=0), 0)
    os.close(fd)
    assert (tmp_path / "out").read_bytes() == DATA[:99]


@pytest.mark.parametrize("kernel", [None, lambda *_: 0, refuse(errno.EXDEV)])
def test_an_input_that_ends_early(source: str, output: LocalOutput, kernel: Any, monkeypatch: pytest.MonkeyPatch):
    if kernel is not None:
        monkeypatch.setattr(os, "copy_file_range", kernel)
    with pytest.raises(DamagedFile, match="the file ends too early; expected at least 10"):
        copied(source, 10_000, 300, output, 10_000)


@pytest.mark.parametrize("kernel", [refuse(errno.ENOSPC), refuse(errno.EDQUOT), refuse(errno.EIO)])
def test_a_disk_that_refuses(source: str, output: LocalOutput, kernel: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "copy_file_range", kernel)
    with pytest.raises(OutputFailed, match="the output cannot be written") as caught:
        copied(source, 0, 300, output, 0)
    assert caught.value.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def test_writes_go_on_after_a_short_one(output: LocalOutput, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:7], at))
    output.write(DATA[:100], 5)
    assert (tmp_path / "out").read_bytes() == bytes(5) + DATA[:100]


def test_reads_go_on_after_a_short_one(source: str, monkeypatch: pytest.MonkeyPatch):
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, at: preadv(fd, [buffers[0][:9]], at))
    block = bytearray(100)
    with LocalFiles() as files:
        files.read_into(source, 3, memoryview(block))
    assert bytes(block) == DATA[3:103]


def test_files_are_open_a_bounded_number_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(local, "MAX_OPEN", 3)
    paths = [str(tmp_path / f"{number}") for number in range(8)]
    for number, path in enumerate(paths):
        (tmp_path / path).write_bytes(bytes([number]) * 4)
    before = len(os.listdir("/proc/self/fd"))
    with LocalFiles() as files:
        for number in [*range(8), 0, 7, 6, 7, 0]:
            block = bytearray(4)
            files.read_into(paths[number], 0, memoryview(block))
            assert bytes(block) == bytes([number]) * 4
            assert len(os.listdir("/proc/self/fd")) <= before + 3
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_that_has_gone(tmp_path: Path):
    with LocalFiles() as files, pytest.raises(DamagedFile, match=r"cannot be read any more: no such file.*gone"):
        files.size_bytes(str(tmp_path / "gone"))


class Lying:
    """A recipe whose copies are not what they should be."""

    numel, dtype, is_plain = 4, DType.F32, True

    def __init__(self, path: str, *extents: tuple[int, int]) -> None:
        self._path, self._extents = path, extents

    def copies(self, start: int = 0, stop: int | None = None) -> Iterator[Copy]:
        for at, numel in self._extents:
            yield Copy(file=self._path, file_start=0, dtype=DType.F32, big_endian=False, start=at, run_numel=numel)


def planned(recipe: Recipe, dtype: DType) -> TensorPlan:
    return TensorPlan(name="w", dtype=dtype, shape=(recipe.numel,), recipe=recipe, is_parameter=True)


@pytest.mark.parametrize("extents", [[(0, 3)], [(0, 2), (3, 1)], [(1, 3)], [(0, 3), (2, 2)], []])
def test_a_plan_that_leaves_a_gap_is_noticed_before_it_costs_weights(
    source: str, output: LocalOutput, extents: list[tuple[int, int]]
):
    plan = lay_out("model.safetensors", [planned(Lying(source, *extents), DType.F32)])
    with Inputs() as inputs, pytest.raises(PlanBroken, match=r"leave a gap or overlap|end early"):
        execute(plan, inputs, output, start=0, counts=Counts(), reached=lambda _: None)


@pytest.mark.parametrize("block_bytes", [4, 12, 100, 1 << 20])
@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16, DType.F16])
@pytest.mark.parametrize("strided", [False, True])
def test_the_block_size_does_not_show(
    tmp_path: Path, output: LocalOutput, block_bytes: int, dtype: DType, strided: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(executor, "BLOCK_BYTES", block_bytes)
    values = (torch.arange(60.0) * 1.01 - 7).reshape(6, 10)
    values = values.t() if strided else values
    recipe = View(saved(values, tmp_path / "f.pt"))
    plan = lay_out("model.safetensors", [planned(recipe, dtype)])
    with Inputs() as inputs:
        execute(plan, inputs, output, start=0, counts=Counts(), reached=lambda _: None)
    written = (tmp_path / "out").read_bytes()[len(plan.header) :]
    truth = values.to(getattr(torch, dtype.torch_name)).contiguous().view(torch.uint8).numpy()
    assert written == truth.tobytes()
    # Whatever is there already is not made again, and the rest is the same.
    for start in (1, len(plan.header) + 5, plan.size_bytes - 3):
        os.truncate(tmp_path / "out", start)
        with Inputs() as inputs:
            execute(plan, inputs, output, start=start, counts=Counts(), reached=lambda _: None)
        assert (tmp_path / "out").read_bytes()[len(plan.header) :] == written


def test_overflows_are_counted_by_tensor(tmp_path: Path, output: LocalOutput):
    values = torch.tensor([1.0, 1e6, -1e6, float("inf"), float("nan")])
    plan = lay_out("model.safetensors", [planned(View(saved(values, tmp_path / "f.pt")), DType.F16)])
    overflows: dict[str, int] = {}
    with Inputs() as inputs:
        execute(plan, inputs, output, start=0, counts=Counts(overflows), reached=lambda _: None)
    assert overflows == {"w": 2}
    assert np.isinf(np.frombuffer((tmp_path / "out").read_bytes()[-10:], np.float16)).sum() == 3


def test_a_changed_file_is_not_copied(tmp_path: Path) -> None:
    """Neither by the kernel nor through a block: what lies there now may be of another save."""
    path, target = tmp_path / "source", tmp_path / "target"
    path.write_bytes(bytes(8192))
    known = {str(path): look_of(path.stat())}
    with open(target, "w+b", buffering=0) as file, LocalFiles(known=known) as files:
        output = LocalOutput(str(target), file.fileno(), start=0)
        assert output.copy_from(files, str(path), 4096, 4096, 4096) == 4096
        os.utime(path)
        with pytest.raises(DamagedFile, match="changed while"):
            output.copy_from(files, str(path), 0, 4096, 0)
        with pytest.raises(DamagedFile, match="changed while"):
            files.read_into(str(path), 0, memoryview(bytearray(1)))
