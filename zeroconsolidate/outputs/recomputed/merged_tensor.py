"""One merged tensor: what its names say it is made of, and how its elements are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...dtypes import DType
from ...run.cast import as_dtype, to_single
from ...run.elements import blocks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from ...archive.located import LocatedTensor
    from ...plan.build import Source
    from ...plan.pieces import Recipe
    from ...run.inputs import Inputs

    Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedTensor:
    """One merged tensor: what its names say it is made of."""

    name: str
    """In the output."""
    module: str
    """Of the run, as the model was before PEFT."""
    parameter: str
    """`weight` or `bias`."""
    adapters: Mapping[str, Mapping[str, Source]]
    """Adapter -> `lora_A.weight` and so on -> where it is."""
    written: LocatedTensor
    base: Mapping[str, Recipe]
    """`weight`, `bias` -> the module's own, as it was before."""
    configs: Mapping[str, Mapping[str, Any]]
    """Adapter -> its configuration."""
    is_turned: bool
    """Whether the module is a Conv1D, whatever an adapter's configuration says."""
    settings: Mapping[str, tuple[str, str]]
    """Adapter -> the directory of the model's config.json, and that of the adapter's."""

    @property
    def kind(self) -> tuple[object, ...]:
        """Tensors of one kind differ in nothing but where they are."""
        keys = tuple(tuple(sorted(held)) for held in self.adapters.values())
        return (keys, len(self.written.shape), self.written.dtype, self.name.rpartition(".")[2])


@dataclass(frozen=True, slots=True)
class Sample:
    """Some rows of a merged tensor."""

    written: Floats
    expected: Floats
    """What they should be."""
    base: Floats
    """What they were before, in the dtype that was written."""
    size: Floats
    """How large the numbers are that were rounded on the way."""
    is_coherent: bool = False
    """Whether one rounded number is in many elements."""
    slack: float = 1
    """How much more than rounding may do to one."""


def rows_of(recipe: Recipe, shape: Sequence[int], rows: Sequence[int], inputs: Inputs) -> Floats:
    """Some rows of a tensor, as a matrix."""
    numel = recipe.numel // shape[0]
    found = blocks(recipe, [(row * numel, (row + 1) * numel) for row in rows], inputs)
    values = np.concatenate([to_single(block, recipe.dtype).astype(np.float64) for block in found])
    return values.reshape(len(rows), numel)


def whole(source: Source, inputs: Inputs) -> Floats:
    """A parameter, all of it."""
    return rows_of(source.recipe, (1,), [0], inputs).reshape(source.shape)


def as_written(values: Floats, dtype: DType) -> Floats:
    """Values as they are in a dtype."""
    with np.errstate(over="ignore"):
        single = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
    return to_single(as_dtype(single, DType.F32, dtype), dtype).astype(np.float64).reshape(values.shape)


def mean_of(several: Sequence[Sample], weights: Sequence[float], dtype: DType) -> Sample:
    """What the mean of models should be, of which each was rounded when it was merged."""

    def mean(values: Sequence[Floats]) -> Floats:
        total = sum(weight * each for weight, each in zip(weights, values, strict=True)) / sum(weights)
        return np.asarray(total, np.float64)

    return Sample(
        written=several[-1].written,
        expected=mean([as_written(each.expected, dtype) for each in several]),
        base=as_written(mean([each.base for each in several]), dtype),
        size=mean([each.size for each in several]),
        is_coherent=any(each.is_coherent for each in several),
        slack=max(each.slack for each in several),
    )
