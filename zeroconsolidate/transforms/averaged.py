"""The weighted mean of a tensor over several checkpoints: its recipe, and how the sources of checkpoints become it.

Not to be confused with :class:`~..plan.joined.Mean`, DeepSpeed's own mean of one parameter over tensor-parallel ranks
of one checkpoint, which is taken in the ranks' dtype.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..archive.phrases import listed
from ..dtypes import DType
from ..errors import Disagreement
from ..plan.computed import Computed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..plan.pieces import Recipe
    from ..plan.sources import Source

BLOCK_NUMEL = 1 << 17
"""Elements that are summed at a time: with their sums in float64 they fit into a processor's cache."""
HELD_BYTES = 2 * BLOCK_NUMEL * 8
"""The sums of a block, and what is added to them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Averaged(Computed):
    """(w1 x1 + w2 x2 + …) / (w1 + w2 + …), of tensors of one size.

    Every product, sum and the quotient is of float64, products are added in the order of `parts`, and the quotient is
    rounded once, to `dtype`. So an element depends on nothing but the elements at its place: not on blocks, nor on
    threads.
    """

    parts: tuple[Recipe, ...]
    weights: tuple[float, ...]
    dtype: DType

    @property
    def base(self) -> Recipe:  # type: ignore[override]
        """The last of them."""
        return self.parts[-1]

    @property
    def input_bytes(self) -> int:
        return sum(part.input_bytes for part in self.parts)

    @property
    def memory_bytes(self) -> int:
        return HELD_BYTES + sum(part.memory_bytes for part in self.parts)

    @property
    def block_ends(self) -> Sequence[int]:
        """Where those of the parts are; anywhere if they are copied."""
        computed = next((part for part in self.parts if isinstance(part, Computed)), None)
        if computed is not None:
            return computed.block_ends
        return [*range(BLOCK_NUMEL, self.numel, BLOCK_NUMEL), self.numel]


def averaged(
    several: Sequence[Mapping[str, Source]], weights: Sequence[float], places: Sequence[str]
) -> dict[str, Source]:
    """The mean of the tensors of checkpoints, by name: of floating-point parameters, in float32, or float64 where they
    are. Buffers and whole numbers are those of the last checkpoint.

    `places`: where each checkpoint lies, for errors. Raises Disagreement if names or shapes differ.
    """
    last = several[-1]
    for place, named in zip(places, several, strict=True):
        _refuse_different(last, named, places[-1], place)
    found: dict[str, Source] = {}
    known: dict[tuple[int, ...], Recipe] = {}
    for name, source in last.items():
        sources = [named[name] for named in several]
        key = tuple(id(each.recipe) for each in sources)  # a tied weight keeps to be one
        recipe = known.setdefault(key, _mean([each.recipe for each in sources], weights))
        is_trained = any(each.role == "trainable" for each in sources)
        found[name] = (
            source
            if source.role == "buffer"
            else replace(source, recipe=recipe, role="trainable" if is_trained else source.role)
        )
    return found


def _mean(parts: Sequence[Recipe], weights: Sequence[float]) -> Recipe:
    """That of the last, if they are whole numbers, or elements of the same file: a base model's."""
    if any(part.dtype.kind not in ("float", "float8") for part in parts) or all(part == parts[0] for part in parts):
        return parts[-1]
    dtype = DType.F64 if any(part.dtype is DType.F64 for part in parts) else DType.F32
    return Averaged(parts=tuple(parts), weights=tuple(weights), dtype=dtype)


def _refuse_different(last: Mapping[str, Source], other: Mapping[str, Source], place: str, other_place: str) -> None:
    lacking = [name for name in last if name not in other]
    extra = [name for name in other if name not in last]
    if lacking or extra:
        here, there = (other_place, place) if lacking else (place, other_place)
        raise Disagreement(
            f"the checkpoints are not of one model: {listed(lacking or extra, 2)} is not in {here}",
            expected=f"the tensors of {there}",
            consequence="a mean is taken of tensors that all of them have",
            remedy="leave it out with --exclude" if lacking else None,
        )
    for name, source in last.items():
        if source.shape != other[name].shape:
            raise Disagreement(
                "the checkpoints are not of one model: a tensor differs in shape",
                expected=f"{list(source.shape)} as in {place}",
                found=f"{list(other[name].shape)} in {other_place}",
                address=(name,),
            )
