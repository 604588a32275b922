"""Figures of differing tensors: compared with torch in float64, however they are cut into blocks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from zeroconsolidate.archive.safetensors import read_file
from zeroconsolidate.plan.pieces import View
from zeroconsolidate.run.inputs import Inputs
from zeroconsolidate.run.orders import other_order
from zeroconsolidate.run.statistics import RowMarks, Statistics, differ, values_of

if TYPE_CHECKING:
    from pathlib import Path

CLOSE = 1e-10
"""What is promised of sums."""
SPECIAL = (0.0, -0.0, 1.0, -1.0, math.nan, math.inf, -math.inf, 65504.0, 3e38, 1e-40)


def pair_of(a: torch.Tensor, b: torch.Tensor, folder: Path) -> tuple[View, View]:
    save_file({"a": a.contiguous(), "b": b.contiguous()}, folder / "pair.safetensors")
    tensors = read_file(str(folder / "pair.safetensors")).tensors
    return View(tensors["a"]), View(tensors["b"])


def found(a: torch.Tensor, b: torch.Tensor, folder: Path, **options: object) -> Statistics:
    with Inputs() as inputs:
        left, right = pair_of(a, b, folder)
        return differ(left, right, inputs, numel=a.numel(), progress=lambda _: None, **options)


def check(a: torch.Tensor, b: torch.Tensor, got: Statistics) -> None:
    """Against torch, in float64."""
    x, y = a.double().flatten(), b.double().flatten()
    finite = x.isfinite() & y.isfinite()
    same = (x == y) | (x.isnan() & y.isnan())
    assert got.numel == x.numel()
    assert got.changed == int((~same).sum())
    assert got.unlike == int((~same & ~finite).sum())
    for values, side in ((x, got.a), (y, got.b)):
        own = values[values.isfinite()]
        assert (side.nan, side.infinite) == (int(values.isnan().sum()), int(values.isinf().sum()))
        assert side.zeros == int((values == 0).sum())
        assert side.peak == (float(own.abs().max()) if own.numel() else 0.0)
        assert side.norm == pytest.approx(float(own.norm()), rel=CLOSE)
    apart = (x[finite] - y[finite]).abs()
    assert got.largest == (float(apart.max()) if apart.numel() else 0.0)
    if got.largest:
        assert float((x - y)[got.largest_at].abs()) == got.largest
    size = torch.maximum(x[finite].abs(), y[finite].abs())
    shares = torch.where(size > 0, apart / size, 0.0)
    assert got.largest_relative == pytest.approx(float(shares.max()) if shares.numel() else 0.0, rel=1e-15)
    assert got.difference_square == pytest.approx(float((apart**2).sum()), rel=CLOSE)
    assert got.product == pytest.approx(float(x[finite] @ y[finite]), rel=CLOSE, abs=CLOSE * got.a.norm * got.b.norm)


DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("second", DTYPES, ids=str)
@pytest.mark.parametrize("first", DTYPES, ids=str)
@pytest.mark.parametrize("special", [False, True])
def test_against_torch(first: torch.dtype, second: torch.dtype, special: bool, tmp_path: Path) -> None:
    torch.manual_seed(3)
    a = torch.randn(300_001) * 0.02
    b = a + torch.randn(300_001) * 1e-4 * (torch.rand(300_001) < 0.3)
    if special:
        for values, step in ((a, 31), (b, 37)):
            for n, value in enumerate(SPECIAL):
                values[n * 1013 :: step * 997] = value
    a, b = a.to(first), b.to(second)
    check(a, b, found(a, b, tmp_path))


def test_whole_numbers_and_complex_ones(tmp_path: Path) -> None:
    a = torch.arange(-500, 500, dtype=torch.int32)
    b = a.clone()
    b[7] += 3
    check(a, b, found(a, b, tmp_path))
    large = torch.tensor([2**60, 2**60 + 1])
    got = found(large, torch.tensor([2**60, 2**60]), tmp_path)
    assert (got.changed, got.largest) == (1, 0.0)  # which float64 does not tell apart
    bits = found(torch.tensor([True, False]), torch.tensor([True, True]), tmp_path)
    assert (bits.changed, bits.largest, bits.largest_at) == (1, 1.0, 1)
    c = torch.tensor([1 + 2j, math.nan + 1j, 3 + 0j], dtype=torch.complex64)
    d = torch.tensor([1 + 2j, math.nan + 1j, 3 + 1j], dtype=torch.complex64)
    got = found(c, d, tmp_path)
    assert (got.changed, got.unlike, got.largest, got.largest_at) == (1, 0, 1.0, 2)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_8_bits(dtype: torch.dtype, tmp_path: Path) -> None:
    a = torch.randn(5000)
    check(a, a.to(dtype).float(), found(a, a.to(dtype), tmp_path))


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16], ids=str)
def test_rounding_is_recognised(narrow: torch.dtype, tmp_path: Path) -> None:
    a = torch.randn(100_000)
    a[5], a[6] = math.nan, 1e30
    b = a.to(narrow)
    assert found(a, b, tmp_path).is_rounding
    assert found(b, a, tmp_path).is_rounding
    b[99_999] = torch.nextafter(b[99_999].float(), torch.tensor(9e9)).to(narrow) * 2
    assert not found(a, b, tmp_path).is_rounding
    assert not found(a.to(torch.bfloat16), a.to(torch.float16), tmp_path).is_rounding


@given(
    numel=st.integers(0, 400),
    block=st.integers(1, 97),
    columns=st.integers(1, 23),
    changed=st.floats(0, 1),
    seed=st.integers(0, 1 << 20),
    odd=st.lists(st.tuples(st.integers(0, 399), st.sampled_from(SPECIAL), st.booleans()), max_size=6),
)
def test_blocks_make_no_difference(
    numel: int,
    block: int,
    columns: int,
    changed: float,
    seed: int,
    odd: list[tuple[int, float, bool]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Counts and largest values are the same; sums to one part in 10**10."""
    folder = tmp_path_factory.mktemp("pair")
    torch.manual_seed(seed)
    numel -= numel % columns
    a = torch.randn(numel)
    b = torch.where(torch.rand(numel) < changed, torch.randn(numel), a)
    for place, value, first in odd:
        if place < numel:
            (a if first else b)[place] = value
    marks, whole_marks = (RowMarks(numel // columns, columns) for _ in range(2))
    cut = found(a, b, folder, block_numel=block, marks=marks)
    whole = found(a, b, folder, block_numel=10_000, marks=whole_marks)
    for name in ("numel", "changed", "unlike", "largest", "largest_at", "largest_relative", "is_rounding"):
        assert getattr(cut, name) == getattr(whole, name), name
    for name in ("nan", "infinite", "zeros", "peak"):
        assert (getattr(cut.a, name), getattr(cut.b, name)) == (getattr(whole.a, name), getattr(whole.b, name)), name
    for name in ("product", "difference_square"):
        bound = CLOSE * max(whole.a.norm * whole.b.norm, whole.difference_square)
        assert getattr(cut, name) == pytest.approx(getattr(whole, name), rel=CLOSE, abs=bound), name
    differing = ~((a == b) | (a.isnan() & b.isnan()))
    assert marks.rows == whole_marks.rows == torch.nonzero(differing.view(-1, columns).any(1)).flatten().tolist()


def test_several_tensors_together_are_one(tmp_path: Path) -> None:
    torch.manual_seed(1)
    parts = [(torch.randn(n), torch.randn(n)) for n in (7, 1000, 1)]
    together = Statistics()
    for a, b in parts:
        together.include(found(a, b, tmp_path))
    whole = found(torch.cat([a for a, _ in parts]), torch.cat([b for _, b in parts]), tmp_path)
    assert (together.changed, together.largest, together.numel) == (whole.changed, whole.largest, whole.numel)
    assert together.relative == pytest.approx(whole.relative, rel=CLOSE)
    assert together.cosine == pytest.approx(whole.cosine, rel=CLOSE)


def test_only_one_side(tmp_path: Path) -> None:
    a = torch.tensor([0.0, math.nan, math.inf, -3.0, 4.0])
    with Inputs() as inputs:
        got = values_of(pair_of(a, a.clone(), tmp_path)[0], inputs, progress=lambda _: None)
    assert (got.zeros, got.nan, got.infinite, got.peak, got.norm) == (1, 1, 1, 4.0, 5.0)


def test_squares_that_float64_does_not_hold(tmp_path: Path) -> None:
    a = torch.tensor([1e200, 1.0], dtype=torch.float64)
    got = found(a, a * 2, tmp_path)
    assert (got.changed, got.unlike, got.largest, got.a.peak) == (2, 0, 1e200, 1e200)
    assert (got.cosine, got.relative) == (None, 0.5)


class TestOtherOrder:
    """Rows, elements, or neither."""

    def order(self, a: torch.Tensor, b: torch.Tensor, folder: Path) -> str | None:
        with Inputs() as inputs:
            left, right = pair_of(a, b, folder)
            return other_order(left, right, inputs, rows=a.shape[0], progress=lambda _: None)

    def test_rows(self, tmp_path: Path) -> None:
        a = torch.randn(700, 130)
        assert self.order(a, a[torch.randperm(700)], tmp_path) == "rows"

    def test_elements(self, tmp_path: Path) -> None:
        a = torch.randn(700, 130)
        assert self.order(a, a.T.reshape(700, 130), tmp_path) == "elements"
        columns = a[:, torch.randperm(130)]
        assert self.order(a, columns, tmp_path) == "elements"

    def test_neither(self, tmp_path: Path) -> None:
        a = torch.randn(70, 13)
        b = a[torch.randperm(70)].clone()
        b[3, 4] += 1
        assert self.order(a, b, tmp_path) is None

    def test_rounded(self, tmp_path: Path) -> None:
        a = torch.randn(70, 13)
        assert self.order(a, a.flip(0).bfloat16(), tmp_path) == "rows"
        assert self.order(a, torch.zeros(70, 13, dtype=torch.int32), tmp_path) is None

    def test_exchanged_pairs_within_rows_are_not_rows(self, tmp_path: Path) -> None:
        a = torch.arange(8.0).view(4, 2)
        assert self.order(a, a.flip(1), tmp_path) == "elements"


def test_memory_does_not_depend_on_the_size(tmp_path: Path) -> None:
    import tracemalloc

    a = torch.zeros(20_000_000)
    save_file({"a": a, "b": a + 1}, tmp_path / "pair.safetensors")
    tensors = read_file(str(tmp_path / "pair.safetensors")).tensors
    del a
    tracemalloc.start()
    with Inputs() as inputs:
        left, right = View(tensors["a"]), View(tensors["b"])
        got = differ(left, right, inputs, numel=left.numel, progress=lambda _: None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert got.changed == left.numel
    assert peak < 8 << 20
