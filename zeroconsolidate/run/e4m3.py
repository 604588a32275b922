"""float32 -> float8 E4M3, with numpy, bit for bit as `torch.Tensor.to(torch.float8_e4m3fn)` for values up to 448.

An E4M3 number has a sign, 4 bits of exponent with a bias of 7, and 3 of mantissa; it has no infinity. 448 is the
largest, and numbers below 2**-6 are multiples of 2**-9 (Micikevicius et al., "FP8 formats for deep learning", 2022).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .cast import AT_ONCE_NUMEL

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST = 448.0
_KEPT_BITS = 20
"""Bits of a float32's mantissa that E4M3 does not have."""
_BIASES = (127 - 7) << 3
"""What is to be taken off exponent and mantissa, read as one number."""
_NORMAL = 121 << 23
"""The bits of 2**-6 in float32: below it there are fewer bits of mantissa."""
_AS_MULTIPLES = np.float32(1 << 14)
"""A sum of this and a number below 2**-6 is rounded to a multiple of 2**-9: it has 23 bits from 2**14 down."""


def to_e4m3(values: NDArray[np.float32], out: NDArray[np.uint8]) -> None:
    """Round to nearest, ties to even. Both are 1-D, of the same length; `values` is overwritten.

    No value may be NaN or above LARGEST in magnitude.
    """
    for first in range(0, values.size, AT_ONCE_NUMEL):
        _rounded(values[first : first + AT_ONCE_NUMEL], out[first : first + AT_ONCE_NUMEL])


def _rounded(values: NDArray[np.float32], out: NDArray[np.uint8]) -> None:
    bits = values.view(np.uint32)
    signs = (bits >> np.uint32(24)).astype(np.uint8)
    signs &= np.uint8(0x80)
    bits &= np.uint32(0x7FFFFFFF)
    small = np.flatnonzero(bits < np.uint32(_NORMAL))
    below = values[small] + _AS_MULTIPLES
    # Half of the last bit that is kept is added, and one less if that bit is even: the carry rounds.
    odd = bits >> np.uint32(_KEPT_BITS)
    odd &= np.uint32(1)
    bits += odd
    bits += np.uint32((1 << (_KEPT_BITS - 1)) - 1)
    bits >>= np.uint32(_KEPT_BITS)
    bits -= np.uint32(_BIASES)
    out[...] = bits
    out[small] = below.view(np.uint32) - _AS_MULTIPLES.view(np.uint32)
    out |= signs
