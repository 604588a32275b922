"""Split tensors that no list names -> whether ranks hold parts or copies, found by their values."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..catalog.rules import Join, Rule
from ..errors import UnsupportedLayout, at
from ..plan.sources import place
from ..run.compare import first_difference
from ..run.elements import distinct
from .undeclared_ties import DISTINCT, SAMPLE_NUMEL

if TYPE_CHECKING:
    from ..catalog.facts import Catalog
    from ..plan.joins import Held
    from ..run.inputs import Inputs


def settle(catalog: Catalog, inputs: Inputs) -> Catalog:
    """The catalog with the joins of doubtful tensors decided, and no doubts left.

    Parts that differ are parts of a whole. Equal parts are copies: no two rows of a weight are equal. A tensor that is
    equal because it is constant (a bias of zeros) is treated like its weight, or as a copy if it has none, as in a
    norm. Raises UnsupportedLayout for constant matrices, which may be either.
    """
    if not catalog.doubts:
        return catalog
    parts = place(catalog)
    held = {name: [holdings[name][0] for holdings in parts] for name in catalog.doubts}
    equal = {name for name, of_ranks in held.items() if _are_equal(of_ranks, inputs)}
    joins = dict(catalog.joins)
    for name in sorted(equal):
        if not _is_varied(held[name][0], inputs):
            weight = name.removesuffix("bias") + "weight"
            if name.endswith(".bias") and weight in joins and weight not in equal:
                continue
            if len(held[name][0].shape) > 1:
                with at(name):
                    raise UnsupportedLayout(
                        "the tensor is constant and equal on all tensor-parallel ranks, and nothing says whether each "
                        "has a part of it or a copy"
                    )
        joins[name] = Join(rule=Rule.REPLICATED)
    note = f"{len(equal)} tensors that no list has are equal on all ranks and were taken for copies" if equal else None
    return replace(catalog, joins=joins, doubts=(), notes=(*catalog.notes, *([note] if note else [])))


def _are_equal(parts: list[Held], inputs: Inputs) -> bool:
    first = parts[0]
    return all(
        other.shape == first.shape
        and first_difference(
            inputs, first.recipe, other.recipe, start=0, stop=first.recipe.numel, progress=lambda _: None
        )
        is None
        for other in parts[1:]
    )


def _is_varied(part: Held, inputs: Inputs) -> bool:
    numel = min(part.recipe.numel, SAMPLE_NUMEL)
    return distinct(part.recipe, numel, inputs) >= min(DISTINCT, max(numel // 2, 2))
