"""Two sides and their pairs of names -> figures for each pair, read block by block."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import at
from ..plan.pieces import share_bytes
from ..run.statistics import RowMarks, Statistics, differ, values_of
from ..transforms.dequantized import Dequantized
from .comparison import ComparedTensor
from .figures import Figures, figures_of
from .kinds import kind_of, layer_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..catalog.facts import Shape
    from ..dtypes import DType
    from ..plan.pieces import Recipe
    from ..plan.sources import Source
    from ..run.inputs import Inputs
    from ..run.statistics import Values
    from .pairing import Pairing
    from .sides import Side

VOCABULARY = ("embedding", "head")
"""The kinds of which the rows that differ are counted: a row belongs to a token or a class."""
MAX_MARKED_ROWS = 1 << 26
"""Of a longer matrix they are not: a byte for each row is held."""
LISTED_ROWS = 64
"""So many of the rows that differ are listed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One pair."""

    tensor: ComparedTensor
    statistics: Statistics | None
    """None if the shapes do not fit, or the elements are no weights."""


def measure(a: Side, b: Side, pairing: Pairing, inputs: Inputs, progress: Callable[[int], None]) -> list[Measured]:
    """Compare each pair of tensors. `progress(n)` after every n bytes read.

    Raises DamagedFile for files that cannot be read any more.
    """
    found = []
    for name, name_b in pairing.pairs:
        with at(name):
            found.append(_pair(a, b, name, name_b, inputs, progress))
    return found


def measure_alone(
    side: Side, names: tuple[str, ...], inputs: Inputs, progress: Callable[[int], None]
) -> dict[str, Values]:
    """What the elements of tensors are like that only this side has; of those that are no weights, nothing."""
    found = {}
    for name in [name for name in names if name not in side.stored]:
        with at(name):
            found[name] = values_of(side.tensors[name].recipe, inputs, progress=progress)
    return found


def work_bytes(a: Side, b: Side, pairing: Pairing) -> int:
    """How many bytes `measure` and `measure_alone` will read, for a progress bar."""
    pairs = [(a.tensors[name], b.tensors[name_b]) for name, name_b in pairing.pairs]
    both = sum(
        share_bytes(left.recipe, numel) + share_bytes(right.recipe, numel)
        for left, right in pairs
        if (numel := _comparable(left.shape, right.shape))
    )
    return both + sum(
        side.tensors[name].recipe.input_bytes
        for side, names in ((a, pairing.only_a), (b, pairing.only_b))
        for name in names
        if name not in side.stored
    )


def _pair(a: Side, b: Side, name: str, name_b: str, inputs: Inputs, progress: Callable[[int], None]) -> Measured:
    left, right = a.tensors[name], b.tensors[name_b]
    kind, numel = kind_of(name), _comparable(left.shape, right.shape)
    found, marks = None, None
    is_stored = name in a.stored
    if numel or left.shape == right.shape:
        marks = _marks(kind, left, numel)
        found = differ(left.recipe, right.recipe, inputs, numel=numel, marks=marks, progress=progress)
    rows = None if marks is None else marks.rows
    tensor = ComparedTensor(
        name=name,
        name_b=name_b,
        kind=kind,
        layer=layer_of(name),
        role_a=a.roles.get(name),
        role_b=b.roles.get(name_b),
        dtype_a=stored_dtype(left.recipe).torch_name,
        dtype_b=stored_dtype(right.recipe).torch_name,
        shape_a=tuple(left.shape),
        shape_b=tuple(right.shape),
        state=_state(left, right, found),
        figures=None if found is None or is_stored else figures_of(found),
        largest_at=None if found is None or is_stored or not found.largest else _unravel(found.largest_at, left.shape),
        changed_rows=None if rows is None else len(rows),
        first_rows=() if rows is None else tuple(rows[:LISTED_ROWS]),
    )
    return Measured(tensor=tensor, statistics=None if is_stored else found)


def stored_dtype(recipe: Recipe) -> DType:
    """The dtype of a tensor in its file: of a quantized weight, of its numbers."""
    return recipe.stored_dtype if isinstance(recipe, Dequantized) else recipe.dtype


def _comparable(a: Shape, b: Shape) -> int:
    """How many elements can be compared: all, or of two matrices of the same width the rows that both have."""
    if a == b:
        return math.prod(a)
    if len(a) == len(b) > 1 and a[1:] == b[1:]:
        return min(math.prod(a), math.prod(b))
    return 0


def _marks(kind: str, source: Source, numel: int) -> RowMarks | None:
    if kind not in VOCABULARY or len(source.shape) != 2 or not source.shape[1]:
        return None
    rows = numel // source.shape[1]
    return RowMarks(rows, source.shape[1]) if rows <= MAX_MARKED_ROWS else None


def _state(a: Source, b: Source, found: Statistics | None) -> str:
    if found is None or a.shape != b.shape:
        return "shape"
    if not found.changed:
        return "equal"
    return "rounded" if found.is_rounding and a.recipe.dtype is not b.recipe.dtype else "differs"


def _unravel(index: int, shape: Shape) -> tuple[int, ...]:
    """Row-major position -> indices.

    >>> _unravel(7, (3, 5))
    (1, 2)
    """
    found = []
    for n in reversed(shape):
        index, rest = divmod(index, n)
        found.append(rest)
    return tuple(found[::-1])


def total(measured: list[Measured], key: Callable[[ComparedTensor], str | None]) -> dict[str, Figures]:
    """The figures of all tensors with the same key together; those without one are left out."""
    sums: dict[str, Statistics] = {}
    for each in measured:
        place = key(each.tensor)
        if place is not None and each.statistics is not None:
            sums.setdefault(place, Statistics()).include(each.statistics)
    return {place: figures_of(found) for place, found in sums.items()}
