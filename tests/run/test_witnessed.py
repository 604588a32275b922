"""Tensors that are cast, and may share the blocks of a witness: the bytes are those of the cast, whatever it holds."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from containers import saved

from zeroconsolidate.dtypes import DType
from zeroconsolidate.plan.layout import TensorPlan, in_order
from zeroconsolidate.plan.pieces import View
from zeroconsolidate.run import execute as executor
from zeroconsolidate.run.counts import Counts
from zeroconsolidate.run.execute import execute
from zeroconsolidate.run.inputs import Inputs, side_by_side
from zeroconsolidate.run.storage import Readable, Writable

if TYPE_CHECKING:
    from pathlib import Path

    from zeroconsolidate.plan.layout import FilePlan

FS_BLOCK = 16
"""What the output shares, in bytes."""


class Sharing(Writable):
    """An output in memory that shares whole blocks, as a file system does, and remembers which."""

    def __init__(self, size_bytes: int) -> None:
        self.data = bytearray(size_bytes)
        self.written = bytearray(size_bytes)
        self.shared: list[tuple[str, int, int]] = []

    def write(self, data: bytes | memoryview, start: int) -> None:
        self.data[start : start + len(data)] = data
        self.written[start : start + len(data)] = b"\1" * len(data)

    def read_into(self, start: int, buffer: memoryview) -> None:
        buffer[:] = self.data[start : start + len(buffer)]

    def copy_from(self, source: Readable, file: str, file_start: int, size_bytes: int, start: int) -> int:
        head_bytes = -start % FS_BLOCK
        whole_bytes = (size_bytes - head_bytes) // FS_BLOCK * FS_BLOCK
        if (file_start - start) % FS_BLOCK or whole_bytes <= 0:
            return 0
        data = memoryview(bytearray(head_bytes or whole_bytes))
        source.read_into(file, file_start, data)
        self.write(data, start)
        if not head_bytes:
            self.shared.append((file, file_start, file_start + whole_bytes))
        return len(data)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "BLOCK_BYTES", 64)
    monkeypatch.setattr(executor, "PIECE_BYTES", 512)


class Case:
    """A bf16 tensor whose witness differs from the rounded masters in the elements `wrong`."""

    def __init__(self, folder: Path, numel: int, wrong: list[int], *, values: torch.Tensor | None = None) -> None:
        masters = torch.linspace(-1e38, 1e38, numel) if values is None else values
        self.rounded = masters.bfloat16()
        copy = self.rounded.view(torch.int16).clone()
        copy[wrong] ^= 1
        masters_view = View(saved(masters, folder / "masters.pt"))
        witness = View(saved(copy.view(torch.bfloat16), folder / "module.pt"))
        self.tensor = TensorPlan(
            name="w", dtype=DType.BF16, shape=(numel,), recipe=masters_view, is_parameter=True, witness=witness
        )
        self.witness_start = witness.tensor.start
        self.plan: FilePlan = in_order("m", [self.tensor], residue=self.witness_start % FS_BLOCK, modulus=FS_BLOCK)

    def made(self, start: int = 0, stop: int | None = None, threads: int = 1) -> tuple[Sharing, Counts, list[int]]:
        output, counts, reached = Sharing(self.plan.size_bytes), Counts(), list[int]()
        with Inputs() as inputs, side_by_side(inputs, threads) as (first, *others):
            execute(self.plan, first, output, start=start, stop=stop, counts=counts, reached=reached.append,
                    others=others)  # fmt: skip
        return output, counts, reached

    @property
    def truth(self) -> bytes:
        return self.plan.header + self.rounded.view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("threads", [1, 3])
class TestBytes:
    def test_what_is_equal_is_shared(self, tmp_path: Path, threads: int) -> None:
        case = Case(tmp_path, 3000, [])
        output, counts, reached = case.made(threads=threads)
        assert bytes(output.data) == case.truth
        shared = sum(stop - start for _, start, stop in output.shared)
        assert shared == (case.witness_start + 6000) // FS_BLOCK * FS_BLOCK - -(-case.witness_start // FS_BLOCK) * 16
        assert counts.differing == {}
        assert reached == sorted(reached)
        assert reached[-1] == case.plan.size_bytes

    @pytest.mark.parametrize("wrong", [0, 1, 31, 32, 1499, 2998, 2999])
    def test_one_bit_and_the_masters_are_written(self, tmp_path: Path, threads: int, wrong: int) -> None:
        case = Case(tmp_path, 3000, [wrong])
        output, counts, _ = case.made(threads=threads)
        assert bytes(output.data) == case.truth
        assert counts.differing == {"w": 1}
        there = case.witness_start + 2 * wrong
        assert not any(start <= there < stop for _, start, stop in output.shared)
        assert len(output.shared) > 3

    @pytest.mark.parametrize("seed", range(25))
    def test_wherever_they_differ_and_begin(self, tmp_path: Path, threads: int, seed: int) -> None:
        """Made in two runs, each counts what it has made."""
        dice = random.Random(seed)
        numel = dice.choice([1, 7, 33, 256, 1000, 2049])
        wrong = dice.sample(range(numel), k=min(numel, dice.choice([0, 1, 5, numel])))
        case = Case(tmp_path, numel, wrong)
        cut = len(case.plan.header) + 2 * dice.randrange(numel + 1)
        first, counts, _ = case.made(stop=cut, threads=threads)
        rest, more, _ = case.made(start=cut, threads=threads)
        assert first.data[:cut] + rest.data[cut:] == case.truth
        assert b"\0" not in first.written[:cut] + rest.written[cut:]
        assert counts.differing.get("w", 0) + more.differing.get("w", 0) == len(wrong)

    def test_counts_are_right_whenever_they_are_told(self, tmp_path: Path, threads: int) -> None:
        """A run that is stopped there has counted what is written, and nothing else: the next begins there."""
        values = torch.full((3000,), 3.4e38)
        case = Case(tmp_path, 3000, list(range(100, 3000, 400)), values=values)
        told: list[tuple[int, int, int]] = []
        counts, output = Counts(), Sharing(case.plan.size_bytes)

        def reached(upto: int) -> None:
            told.append((upto, counts.overflows.get("w", 0), counts.differing.get("w", 0)))

        with Inputs() as inputs, side_by_side(inputs, threads) as (first, *others):
            execute(case.plan, first, output, start=0, counts=counts, reached=reached, others=others)
        assert len(told) > 10
        for upto, infinite, differing in told:
            elements = (upto - len(case.plan.header)) // 2
            assert infinite == elements
            assert differing == len(range(100, elements, 400))


def test_a_nan_is_the_one_that_the_cast_makes(tmp_path: Path) -> None:
    """Another, such as torch's, is not shared, and is no difference that anyone is told of."""
    values = torch.arange(64.0)
    values[5] = float("nan")
    case = Case(tmp_path, 64, [5], values=values)
    output, counts, _ = case.made()
    truth = bytearray(case.truth)
    begin = len(case.plan.header) + 10
    truth[begin : begin + 2] = b"\xc0\x7f"
    assert output.data == truth
    assert counts.differing == {}
    there = case.witness_start + 10
    assert not any(start <= there < stop for _, start, stop in output.shared)


def test_without_a_witness_nothing_is_shared(tmp_path: Path) -> None:
    case = Case(tmp_path, 1000, [])
    case.plan = replace(case.plan, tensors=(replace(case.tensor, witness=None),))
    output, _, _ = case.made()
    assert bytes(output.data) == case.truth
    assert output.shared == []


def test_no_block_lies_in_two_pieces(tmp_path: Path) -> None:
    """So that threads share as much as one, in as few calls as there are pieces."""
    case = Case(tmp_path, 3000, [])
    alone, _, _ = case.made()
    together, _, _ = case.made(threads=3)
    assert sorted(alone.shared) == sorted(together.shared)
    assert len(alone.shared) <= 3000 * 4 // 512 + 2


class TestCounts:
    def test_are_kept_as_plain_values(self) -> None:
        facts: dict[str, object] = {"overflows": {"a": 1}}
        counts = Counts.kept_in(facts)
        counts.add("a", executor.Seen(infinite=2, differing=3))
        counts.add("b", executor.NOTHING)
        assert facts == {"overflows": {"a": 3}, "differing": {"a": 3}}
        assert Counts.summed([facts, facts, {}]) == Counts({"a": 6}, {"a": 6})
