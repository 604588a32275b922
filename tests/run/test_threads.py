"""Threads make a file side by side, and nobody can tell from the bytes, the reports on the way or the errors."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NoReturn

import pytest
import torch
from containers import saved

from zeroconsolidate.dtypes import DType
from zeroconsolidate.errors import OutputFailed
from zeroconsolidate.plan.layout import TensorPlan, lay_out
from zeroconsolidate.plan.pieces import View
from zeroconsolidate.run import execute as executor
from zeroconsolidate.run.counts import Counts
from zeroconsolidate.run.execute import execute
from zeroconsolidate.run.inputs import Inputs, side_by_side
from zeroconsolidate.run.storage import Writable
from zeroconsolidate.run.threads import Threads

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from zeroconsolidate.plan.layout import FilePlan


class Memory(Writable):
    """An output in memory, which fails at a byte."""

    def __init__(self, size_bytes: int, fails_at: int | None = None) -> None:
        self.data = bytearray(size_bytes)
        self.written = bytearray(size_bytes)
        self.fails_at = fails_at

    def write(self, data: bytes | memoryview, start: int) -> None:
        stop = start + len(data)
        if self.fails_at is not None and start <= self.fails_at < stop:
            raise OutputFailed("the disk is full")
        self.data[start:stop] = data
        self.written[start:stop] = b"\1" * len(data)

    def read_into(self, start: int, buffer: memoryview) -> None:
        buffer[:] = self.data[start : start + len(buffer)]


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FilePlan:
    """Tensors that are copied, cast and gathered, of all sizes around that of a piece."""
    monkeypatch.setattr(executor, "BLOCK_BYTES", 64)
    monkeypatch.setattr(executor, "PIECE_BYTES", 256)
    tensors = []
    for index, (numel, dtype) in enumerate([(1000, DType.BF16), (64, DType.F32), (1, DType.F16), (777, DType.F16)]):
        values = torch.arange(numel, dtype=torch.float32).reshape(1, -1) * 300.0
        recipe = View(saved(values.repeat(1, 2)[:, ::2], tmp_path / f"{index}.pt"))
        tensors.append(TensorPlan(name=f"t{index}", dtype=dtype, shape=(numel,), recipe=recipe, is_parameter=True))
    recipe = View(saved(torch.arange(900.0), tmp_path / "plain.pt"))
    tensors.append(TensorPlan(name="plain", dtype=DType.F32, shape=(900,), recipe=recipe, is_parameter=True))
    return lay_out("model.safetensors", tensors)


def made(plan: FilePlan, threads: int, *, start: int = 0) -> tuple[bytes, dict[str, int]]:
    output = Memory(plan.size_bytes)
    overflows: dict[str, int] = {}
    told: list[int] = []

    def reached(upto: int) -> None:
        assert all(output.written[start:upto]), "a byte below it is not written"
        told.append(upto)

    with Inputs() as inputs, side_by_side(inputs, threads) as (first, *others):
        execute(plan, first, output, start=start, counts=Counts(overflows), reached=reached, others=others)
    assert told == sorted(told)
    assert told[-1] == plan.size_bytes
    return bytes(output.data[start:]), overflows


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_the_number_of_threads_does_not_show(plan: FilePlan, threads: int):
    alone, overflows = made(plan, 1)
    assert overflows["t3"] > 0
    assert made(plan, threads) == (alone, overflows)
    for start in (1, len(plan.header) + 5, plan.starts[1] + 7, plan.size_bytes - 3):
        assert made(plan, threads, start=start)[0] == made(plan, 1, start=start)[0]


def test_the_first_error_is_raised_and_nothing_behind_it_is_called_written(plan: FilePlan):
    fails_at = plan.starts[2] + 900
    output = Memory(plan.size_bytes, fails_at)
    told: list[int] = []
    with (
        Inputs() as inputs,
        side_by_side(inputs, 3) as (first, *others),
        pytest.raises(OutputFailed, match="the disk is full"),
    ):
        execute(plan, first, output, start=0, counts=Counts(), reached=told.append, others=others)
    assert max(told) <= fails_at
    assert [thread for thread in threading.enumerate() if thread.name == "zeroconsolidate-worker"] == []


def test_where_no_thread_can_be_started_the_caller_does_the_work(plan: FilePlan, monkeypatch: pytest.MonkeyPatch):
    alone = made(plan, 1)

    def start(_: threading.Thread) -> NoReturn:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    assert made(plan, 2) == alone


def test_threads_make_pieces_at_the_same_time():
    """Each waits for the other: a thread alone would wait for ever."""
    both = threading.Barrier(2, timeout=30)
    with Threads(["a", "b"], lambda member, task: (both.wait() >= 0, task)) as threads:
        assert list(threads.in_order(range(6))) == [(True, task) for task in range(6)]


def test_what_comes_behind_an_error_is_not_begun():
    """Two threads, and four tasks handed out: the first fails, the next two are under way, the last waits."""
    all_waiting, raised = threading.Event(), threading.Event()
    begun: list[int] = []

    def tasks() -> Iterator[int]:
        for task in range(100):
            if task == 3:
                all_waiting.set()
            yield task

    def make(_: str, task: int) -> int:
        begun.append(task)
        if task == 0:
            all_waiting.wait(30)
            raise ValueError("the first")
        raised.wait(30)
        return task

    with pytest.raises(ValueError, match="the first"), Threads(["a", "b"], make) as threads:
        try:
            list(threads.in_order(tasks()))
        finally:
            raised.set()
    assert set(begun) <= {0, 1, 2}
