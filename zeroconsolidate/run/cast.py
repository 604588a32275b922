"""Floating-point elements -> another dtype, with numpy, bit for bit as `torch.Tensor.to` (NaN stays NaN).

Every cast goes through float32, as torch's do (`c10/util/BFloat16.h`, `Half.h` construct from float), so a
float64 is rounded twice where torch rounds it twice. numpy has no bfloat16 or float8; they are handled as
integers of their size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..dtypes import DType

if TYPE_CHECKING:
    from numpy.typing import NDArray

STORAGE: dict[DType, np.dtype[np.generic]] = {
    DType.F64: np.dtype("<f8"),
    DType.F32: np.dtype("<f4"),
    DType.F16: np.dtype("<f2"),
    DType.BF16: np.dtype("<u2"),
    DType.F8_E4M3: np.dtype("u1"),
    DType.F8_E5M2: np.dtype("u1"),
    DType.F8_E4M3FNUZ: np.dtype("u1"),
    DType.F8_E5M2FNUZ: np.dtype("u1"),
    DType.C64: np.dtype("<c8"),
    DType.BOOL: np.dtype("u1"),
    **{DType[f"{sign}{8 * n}"]: np.dtype(f"<{sign.lower()}{n}") for sign in "IU" for n in (1, 2, 4, 8)},
}
"""The numpy dtype that holds elements of each dtype, little-endian."""

AT_ONCE_NUMEL = 1 << 14
"""Elements to compute with at once: the C library reuses the memory of arrays as small as theirs. For larger ones it
may ask the system for new pages, time and again."""


def cast(elements: NDArray[np.generic], source: DType, target: DType, out: NDArray[np.generic]) -> int:
    """Cast `elements` (of STORAGE[source]) into `out` (of STORAGE[target]), round to nearest even.

    Returns how many finite elements became infinite.
    """
    if source is target:
        out[...] = elements
        return 0
    return sum(
        _cast(elements[first : first + AT_ONCE_NUMEL], source, target, out[first : first + AT_ONCE_NUMEL])
        for first in range(0, len(elements), AT_ONCE_NUMEL)
    )


def _cast(elements: NDArray[np.generic], source: DType, target: DType, out: NDArray[np.generic]) -> int:
    single = to_single(elements, source)
    if target is DType.BF16:
        unusual = _round_to_bf16(single, out)
        infinite = int(np.count_nonzero((out.view(np.uint16) & np.uint16(0x7FFF)) == 0x7F80)) if unusual else 0
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            out[...] = single  # numpy rounds float32 to float16 to nearest even
        infinite = int(np.count_nonzero(np.isinf(out)))
    if not infinite:
        return 0
    before = elements if source is DType.F64 else single
    return infinite - int(np.count_nonzero(np.isinf(before)))


def as_dtype(elements: NDArray[np.generic], source: DType, target: DType) -> NDArray[np.generic]:
    """`elements` (1-D, of STORAGE[source]) as `target`; the same array if nothing changes."""
    if source is target:
        return elements
    made = np.empty(len(elements), STORAGE[target])
    cast(elements, source, target, made)
    return made


def unlike(ours: NDArray[np.generic], theirs: NDArray[np.generic], dtype: DType) -> int | None:
    """None if the two, of STORAGE[dtype], are the same bits; else how many elements differ, where one NaN is like any
    other: 0 is possible."""
    different = raw(ours) != raw(theirs)
    if not different.any():
        return None
    different &= ~(np.isnan(to_single(ours, dtype)) & np.isnan(to_single(theirs, dtype)))
    return int(np.count_nonzero(different))


def raw(elements: NDArray[np.generic]) -> NDArray[np.generic]:
    """The elements' bits, as unsigned integers of their size: the same memory."""
    return elements.view(np.dtype(f"u{elements.itemsize}"))


def to_single(elements: NDArray[np.generic], source: DType) -> NDArray[np.float32]:
    """The values in float32, beyond its range infinite; the same memory if they are."""
    if source is DType.F32:
        return elements.view(np.float32) if elements.dtype == np.float32 else elements.astype(np.float32)
    if source is DType.BF16:
        wide: NDArray[np.uint32] = elements.astype(np.uint32)
        np.left_shift(wide, 16, out=wide)
        return wide.view(np.float32)
    if source in _FLOAT8:
        table: NDArray[np.float32] = _float8_values(*_FLOAT8[source])
        return table[elements.astype(np.intp)]
    with np.errstate(over="ignore", invalid="ignore"):
        return elements.astype(np.float32)


def _round_to_bf16(single: NDArray[np.float32], out: NDArray[np.generic]) -> bool:
    """Returns whether there was a value that is, or becomes, infinite or NaN."""
    bits = single.view(np.uint32)
    # Adding half of the last kept bit, and one less if that bit is even, rounds to nearest even by carry.
    rounded = bits >> np.uint32(16)
    rounded &= np.uint32(1)
    rounded += np.uint32(0x7FFF)
    rounded += bits
    rounded >>= np.uint32(16)
    out[...] = rounded
    # As integers, positive floats are the largest signed, negative ones the largest unsigned: two sweeps without
    # a copy tell that nothing is so large that it is, or rounds to, infinity (or is NaN).
    if bits.view(np.int32).max(initial=0) < 0x7F7F8000 and bits.max(initial=0) < 0xFF7F8000:
        return False
    nan = np.isnan(single)
    if nan.any():
        out[nan] = 0x7FC0  # the carry could have turned a NaN's payload into infinity
    return True


# (exponent bits, mantissa bits, bias, finite only: no infinities and one NaN, unsigned zero: 0x80 is the NaN)
_FLOAT8 = {
    DType.F8_E4M3: (4, 3, 7, True, False),
    DType.F8_E5M2: (5, 2, 15, False, False),
    DType.F8_E4M3FNUZ: (4, 3, 8, True, True),
    DType.F8_E5M2FNUZ: (5, 2, 16, True, True),
}


def _float8_values(
    exponent_bits: int, mantissa_bits: int, bias: int, finite: bool, unsigned_zero: bool
) -> NDArray[np.float32]:
    """The value of each of the 256 codes."""
    values = np.empty(256, np.float32)
    top = (1 << exponent_bits) - 1
    for code in range(256):
        sign = -1.0 if code & 0x80 else 1.0
        exponent, mantissa = code >> mantissa_bits & top, code & ((1 << mantissa_bits) - 1)
        if unsigned_zero and code == 0x80:
            value = float("nan")
        elif not finite and exponent == top:
            value = float("nan") if mantissa else sign * float("inf")
        elif finite and not unsigned_zero and code & 0x7F == 0x7F:
            value = float("nan")
        elif exponent:
            value = sign * (1 + mantissa / (1 << mantissa_bits)) * 2.0 ** (exponent - bias)
        else:
            value = sign * mantissa / (1 << mantissa_bits) * 2.0 ** (1 - bias)
        values[code] = value
    return values
