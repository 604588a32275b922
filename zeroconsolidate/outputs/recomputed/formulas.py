"""A weight and its adapters -> the merged weight, by the papers' formulas in float64, without our code or PEFT's.

    LoRA             W' = W + s B A                           s = alpha / r, or alpha / sqrt(r)
    DoRA             W' = m (W + s B A) / |W + s B A|          the length of each output's row

Rounding differs from PEFT's, which merges in the model's dtype. So a result is held against the one that was written
with bounds: each element within what rounding can do, and all of them together in their direction, which a wrong scale
changes by far more than rounding, even where rounding hides each element's.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_ROUNDINGS = 8
"""An element may be off by this many roundings: the base, the product, the sum and DoRA's factor are each rounded."""
_SIGMAS = 8
"""The sum over many elements may be off by this many standard deviations of their rounding."""
_FLIPPED = 0.25
"""The share of the rounding that remains where both sides were rounded: they rarely round in different directions."""
_OFF, _COHERENTLY_OFF = 0.02, 0.3
"""By how much a scale may be off: in general, and for factors whose rounding shifts all elements the same way."""
_SEEN = 0.05
"""If rounding can explain more than this share of a change, the change is not compared."""
_COARSE = 16
"""A change is not compared either if it is less than this many times the effect of one rounded factor on a row."""


def scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """What B A is multiplied by. `rank`: of the factors themselves. `module`: its path in the model."""
    alpha = config.get("lora_alpha", 8)
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = value
            break
    return float(alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank)


def product(a: Floats, b: Floats, shape: Sequence[int], rows: Sequence[int], *, turned: bool) -> Floats | None:
    """Rows of B A as they lie in a weight of `shape`; None if they do not fit it.

    `turned`: of a square weight, whether inputs are its rows.
    """
    taken = list(rows)
    if a.ndim > 2:
        point = b.reshape(b.shape[0], b.shape[1]) if b.size == b.shape[0] * b.shape[1] else None
        if point is None or tuple(shape) != (b.shape[0], *a.shape[1:]):
            return None
        return _multiplied(point[taken], a.reshape(a.shape[0], -1))
    if len(shape) != 2:
        return None
    outputs, inputs = b.shape[0], a.shape[1]
    if tuple(shape) == (outputs, inputs) and not (turned and outputs == inputs):
        return _multiplied(b[taken], a)
    return _multiplied(a[:, taken].T, b.T) if tuple(shape) == (inputs, outputs) else None


def _multiplied(one: Floats, other: Floats) -> Floats:
    """A product without a library for it, which would take memory of its own."""
    made: Floats = np.einsum("or,ri->oi", one, other)
    return made


def turned_to_length(total: Floats, magnitude: Floats, rows: Sequence[int], *, by_row: bool) -> tuple[Floats, Floats]:
    """(DoRA's weight, the factor of each element). `by_row`: an output of the module is a row; else a column, and
    `total` has all rows."""
    length = np.linalg.norm(total, axis=1 if by_row else 0)
    factor = magnitude[list(rows)] / length if by_row else magnitude / length
    factor = factor[:, None] if by_row else factor[None, :]
    return total * factor, np.abs(np.broadcast_to(factor, total.shape))


def contradiction(
    written: Floats,
    expected: Floats,
    base: Floats,
    size: Floats,
    rounding: tuple[float, float],
    *,
    is_coherent: bool = False,
    slack: float = 1,
) -> tuple[bool, str]:
    """(whether it could be compared, what is wrong in words, empty if nothing is).

    `expected` and `base` are rounded to the dtype that was written: where an adapter adds less than rounding takes, it
    adds nothing. `size`: how large the numbers are that were rounded on the way. `rounding`: by how much that dtype
    rounds, relatively and at least. `is_coherent`: one rounded number is in many elements. `slack`: how much more than
    rounding may do to one.
    """
    epsilon, tiny = rounding
    error = epsilon * size + tiny
    off = ~(np.abs(written - expected) <= _ROUNDINGS * slack * error)  # so that NaN is not an agreement
    if off.any():
        index = int(np.argmax(off))
        return True, f"expected {expected.flat[index]:.6g}, got {written.flat[index]:.6g}"
    change, found = (expected - base).ravel(), (written - base).ravel()
    total = float(np.sum(change * change))
    if not total:
        return False, ""
    doubt = _FLIPPED * float(np.sqrt(np.sum((error.ravel() * change) ** 2))) / total
    is_coarse = is_coherent and total < (_COARSE * epsilon) ** 2 * float(np.sum(expected**2))
    if doubt > _SEEN or is_coarse:
        return False, ""
    ratio = float(np.sum(change * found)) / total
    if abs(ratio - 1) > _SIGMAS * doubt + (_COHERENTLY_OFF if is_coherent else _OFF):
        return True, f"what was added is {ratio:.4g} times what it should be"
    return True, ""
