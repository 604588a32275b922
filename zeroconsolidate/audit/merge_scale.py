"""A model, and an adapter merged into its base -> how many times the adapter the model has, where that is not once.

    model - base  =  times * (merged - base)  +  what rounding leaves

A merge that is done twice gives 2, one without `lora_alpha / r` gives r / lora_alpha. A model that was trained on is no
multiple, and nothing is said of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..adapters.recipes import Merged
from ..dtypes import DType
from ..run.cast import to_single
from ..run.elements import read_range

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from ..plan.pieces import Recipe
    from ..run.inputs import Inputs
    from .comparison import ComparedTensor
    from .sides import Side

MOST_TENSORS = 32
"""So many are compared, evenly spread."""
MOST_NUMEL = 1 << 18
"""So many elements of each, from the first on."""
_NEAR = 0.02
"""Factors that differ by less are the same: the product of the factors may be rounded before it is added."""
_SURE = 6.0
"""A factor must differ from 1 by so many times what rounding makes of it."""
_ROUNDS = 3.0
"""A merge may round several times: the weight, then the sum, for each adapter."""
_UNIT = {DType.F64: 2.0**-53, DType.F32: 2.0**-24, DType.F16: 2.0**-11, DType.BF16: 2.0**-8}
"""Half the distance of two numbers at 1: an element is rounded by this times itself at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherScale:
    """Tensors that have the adapter so many times."""

    adapter: str
    """`A` or `B`: the side with the adapter."""
    times: float
    scale: float | None
    """What the adapter is multiplied with, where it is the same for all of them."""
    names: tuple[str, ...]
    compared: int
    """How many tensors with an adapter were."""


@dataclass(frozen=True, slots=True)
class _Found:
    name: str
    times: float
    scale: float | None


def other_scales(
    a: Side, b: Side, tensors: Sequence[ComparedTensor], inputs: Inputs, progress: Callable[[int], None]
) -> tuple[OtherScale, ...]:
    """What has an adapter of one side more or less than once on the other. Raises DamagedFile."""
    return tuple(
        each
        for letter, merged, other in (("A", a, b), ("B", b, a))
        for each in _of_side(letter, merged, other, tensors, inputs, progress)
    )


def _of_side(
    letter: str,
    merged: Side,
    other: Side,
    tensors: Sequence[ComparedTensor],
    inputs: Inputs,
    progress: Callable[[int], None],
) -> Iterator[OtherScale]:
    pairs: list[tuple[ComparedTensor, Merged, Recipe]] = []
    for each in tensors:
        name, its_name = (each.name, each.name_b) if letter == "A" else (each.name_b, each.name)
        left, right = merged.tensors[name].recipe, other.tensors[its_name].recipe
        # DoRA gives rows another length, which is no multiple of anything.
        if not isinstance(left, Merged) or any(part.magnitude is not None for part in left.parts):
            continue
        if right.is_copied and {left.dtype, right.dtype} <= _UNIT.keys() and each.shape_a == each.shape_b:
            pairs.append((each, left, right))
    count = min(len(pairs), MOST_TENSORS)
    sample = [pairs[number * len(pairs) // count] for number in range(count)]
    asked = [_times(each.name, own, its, inputs, progress) for each, own, its in sample if each.state == "differs"]
    found = [each for each in asked if each is not None]
    while found:
        first, *_ = found
        alike = [each for each in found if abs(each.times - first.times) <= _NEAR * abs(first.times)]
        found = [each for each in found if each not in alike]
        scales = {each.scale for each in alike}
        yield OtherScale(
            adapter=letter,
            times=sum(each.times for each in alike) / len(alike),
            scale=scales.pop() if len(scales) == 1 else None,
            names=tuple(each.name for each in alike),
            compared=count,
        )


def _times(name: str, merged: Merged, other: Recipe, inputs: Inputs, progress: Callable[[int], None]) -> _Found | None:
    """The factor, if it is one and not 1."""
    stop = min(merged.numel, MOST_NUMEL)
    base, own, their = (_elements(recipe, stop, inputs, progress) for recipe in (merged.base, merged, other))
    given, there = own - base, their - base
    own_rounding, their_rounding = _rounding(own, merged.dtype), _rounding(their, other.dtype)
    norm = float(given @ given) - own_rounding
    if not own_rounding < norm < math.inf or not math.isfinite(their_rounding):
        return None
    times = float(given @ there) / norm
    left = there - times * given
    rounding = _ROUNDS * (their_rounding + times * times * own_rounding)
    error = math.sqrt(rounding / stop / norm)
    if not float(left @ left) <= rounding + norm * (_NEAR * times) ** 2:
        return None
    if abs(times) < max(_NEAR, _SURE * error) or abs(times - 1) < max(_NEAR, _SURE * error):
        return None
    scales = {part.scale for part in merged.parts}
    return _Found(name, times, scales.pop() if len(scales) == 1 else None)


def _rounding(elements: NDArray[np.float64], dtype: DType) -> float:
    """The square of what rounding to the dtype moves elements by, all together, if every error is as likely."""
    return float(elements @ elements) * _UNIT[dtype] ** 2 / 3


def _elements(recipe: Recipe, stop: int, inputs: Inputs, progress: Callable[[int], None]) -> NDArray[np.float64]:
    found = read_range(recipe, 0, stop, inputs)
    progress(found.nbytes)
    return to_single(found, recipe.dtype).astype(np.float64)
