"""Tensors that only one of two models has quantized: by how much that makes them differ. Pure: nothing is read here."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..archive.phrases import counted, listed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .comparison import ComparedTensor
    from .sides import Side

_ROUNDED = 2.0**-8
"""Room for 16 bits on the way: weights that were rounded to bfloat16, and scales that were."""


def requantized(a: Side, b: Side, tensors: Sequence[ComparedTensor]) -> frozenset[str]:
    """Names of tensors that must differ, because they are quantized in one way here and in another, or not, there."""
    return frozenset(each.name for each in tensors if a.schemes.get(each.name) != b.schemes.get(each.name_b))


def most_relative(scheme: str, *, numel: int, peak: float, norm: float) -> float:
    """The relative difference that quantizing a tensor makes at most, in the norm.

    E4M3 has 3 bits of mantissa: half a step is 2**-4 of a number, and 2**-10 of the scale where numbers are tiny. A
    scale is at most `peak` / 448. A whole number is at most half a scale off, which is `peak` / 127, or less.
    """
    each = math.sqrt(numel) * peak / norm if norm else 0.0
    most = each / 254 if scheme.startswith("int8") else 2.0**-4 + each / 448 * 2.0**-10
    return most + _ROUNDED


def beyond_quantizing(a: Side, b: Side, tensors: Sequence[ComparedTensor]) -> Iterator[str]:
    """Quantized tensors that are not those of the other side, though most are."""
    within, beyond = 0, []
    for each in tensors:
        ours, theirs = a.schemes.get(each.name), b.schemes.get(each.name_b)
        found = each.figures
        if found is None or not found.numel or (ours is None) is (theirs is None):
            continue
        peak, norm = (found.peak_a, found.norm_a) if ours is None else (found.peak_b, found.norm_b)
        if not found.unlike and found.relative <= most_relative(
            ours or theirs or "", numel=found.numel, peak=peak, norm=norm
        ):
            within += 1
        else:
            beyond.append(each.name)
    if beyond and len(beyond) < within:
        yield (
            f"quantized, but further from the other side than that explains, unlike {counted(within, 'other tensor')}: "
            f"{listed(beyond, 3)}"
        )
