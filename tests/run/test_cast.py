"""Our casts against torch's: the same bits for every pattern there is (or, of 2**32, every kind there is)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroconsolidate.dtypes import DType
from zeroconsolidate.run.cast import STORAGE, cast

BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
FLOAT8 = (DType.F8_E4M3, DType.F8_E5M2, DType.F8_E4M3FNUZ, DType.F8_E5M2FNUZ)
SIXTEEN = (DType.BF16, DType.F16)


def torch_dtype(dtype: DType) -> torch.dtype:
    return getattr(torch, dtype.torch_name)


def ours(patterns: np.ndarray, source: DType, target: DType) -> tuple[np.ndarray, int]:
    """(bit patterns of the result, overflows) for bit patterns of `source`."""
    out = np.empty(len(patterns), STORAGE[target])
    overflows = cast(patterns.view(STORAGE[source]), source, target, out)
    return out.view(f"u{target.itemsize}"), overflows


def theirs(patterns: np.ndarray, source: DType, target: DType) -> torch.Tensor:
    bits = torch.from_numpy(patterns.view(f"i{source.itemsize}" if source.itemsize > 1 else "u1").copy())
    return bits.view(torch_dtype(source)).to(torch_dtype(target))


def assert_same(patterns: np.ndarray, source: DType, target: DType) -> None:
    got, overflows = ours(patterns, source, target)
    expected = theirs(patterns, source, target)
    nan = expected.isnan().numpy()
    bits = expected.view(BITS[target.itemsize]).numpy().view(got.dtype)
    wrong = (got != bits) & ~nan
    assert not wrong.any(), [
        (hex(p), hex(g), hex(b)) for p, g, b in zip(patterns[wrong][:4], got[wrong], bits[wrong], strict=False)
    ]
    as_float = torch.from_numpy(got.view(f"i{target.itemsize}").copy()).view(torch_dtype(target))
    assert as_float[torch.from_numpy(nan)].isnan().all(), "a NaN became a number"
    before = torch.from_numpy(patterns.view(f"i{source.itemsize}" if source.itemsize > 1 else "u1").copy())
    was_finite = before.view(torch_dtype(source)).double().isfinite()
    assert overflows == int((was_finite & expected.isinf()).sum())


def all_kinds_of_float32() -> np.ndarray:
    """Every exponent with the mantissas at which rounding to 7 or 10 bits decides, both signs, NaN and infinity."""
    mantissas = {0, 1, 2, (1 << 23) - 1, (1 << 23) - 2}
    for kept in (7, 10, 9, 8, 6, 5, 4, 3, 2, 1):  # fewer where float16 is denormal
        last = 1 << (23 - kept)
        for base in (0, last, 5 * last % (1 << 23), (1 << 23) - last):
            mantissas |= {(base + last // 2 + d) % (1 << 23) for d in (-1, 0, 1)} | {base}
    exponents = np.arange(512, dtype=np.uint32) << 23  # the top bit is the sign
    return (exponents[:, None] | np.array(sorted(mantissas), np.uint32)[None]).reshape(-1)


@pytest.mark.parametrize("target", SIXTEEN)
def test_float32_of_every_kind(target: DType):
    assert_same(all_kinds_of_float32(), DType.F32, target)


@pytest.mark.parametrize("target", SIXTEEN)
def test_float32_of_random_bits(target: DType):
    patterns = np.random.default_rng(0).integers(0, 1 << 32, 1 << 20, dtype=np.uint64).astype(np.uint32)
    assert_same(patterns, DType.F32, target)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=40), st.sampled_from(SIXTEEN))
@settings(max_examples=100)
def test_float32_wherever_hypothesis_looks(patterns: list[int], target: DType):
    assert_same(np.array(patterns, np.uint32), DType.F32, target)


@pytest.mark.parametrize("source", SIXTEEN)
@pytest.mark.parametrize("target", [DType.F32, DType.BF16, DType.F16])
def test_all_65536_sixteen_bit_values(source: DType, target: DType):
    assert_same(np.arange(1 << 16, dtype=np.uint16), source, target)


@pytest.mark.parametrize("source", FLOAT8)
@pytest.mark.parametrize("target", [DType.F32, DType.BF16, DType.F16])
def test_all_float8_codes(source: DType, target: DType):
    assert_same(np.arange(256, dtype=np.uint8), source, target)


@pytest.mark.parametrize("target", [DType.F32, *SIXTEEN])
def test_float64_is_rounded_twice_as_torch_does(target: DType):
    random = np.random.default_rng(1)
    values = np.concatenate(
        [
            random.standard_normal(1 << 14) * 10.0 ** random.integers(-320, 308, 1 << 14),
            random.integers(0, 1 << 63, 1 << 14).view(np.float64),
            [0.0, -0.0, np.inf, -np.inf, np.nan, 1e300, -1e300, 5e-324, 65519.999999, 65520.0, 1e-8, 2.0**-25],
            # Just above the middle of two bfloat16: float32 rounds it onto the middle, which then goes to even.
            1.0 + 2.0**-8 + 2.0 ** -np.arange(26, 52),
            1.0 + 2.0**-11 + 2.0 ** -np.arange(26, 52),
        ]
    )
    assert_same(values.view(np.uint64), DType.F64, target)


def test_overflows_are_counted():
    values = np.array([65504.0, 65519.0, 65520.0, -1e30, np.inf, np.nan, 0.0], np.float32)
    out = np.empty(len(values), np.float16)
    assert cast(values, DType.F32, DType.F16, out) == 2
    assert np.isinf(out).sum() == 3
    assert cast(np.array([3.4e38], np.float32), DType.F32, DType.BF16, np.empty(1, np.uint16)) == 1


@pytest.mark.parametrize("dtype", list(DType))
def test_the_same_dtype_is_a_copy_whatever_the_bits(dtype: DType):
    raw = np.arange(64 * dtype.itemsize, dtype=np.uint8)
    raw = raw % 2 if dtype is DType.BOOL else raw
    out = np.empty(64, STORAGE[dtype])
    assert cast(raw.view(STORAGE[dtype]), dtype, dtype, out) == 0
    assert out.tobytes() == raw.tobytes()
