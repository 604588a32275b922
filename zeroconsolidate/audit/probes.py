"""Questions about tensors that differ which their figures raise, and only values answer.

same norm, but elements differ             the same elements in another order?
B's figures are those of another of A's    the other tensor, under this name?
config.json: the head is the embedding     do both have the same values?
one has an adapter merged into it          does the other have it once?
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..archive.weights import read_weights
from ..errors import ZeroConsolidateError
from ..options.urls import real
from ..plan.pieces import View
from ..run.compare import first_difference
from ..run.orders import other_order
from .kinds import kind_of
from .merge_scale import OtherScale, other_scales

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ..run.inputs import Inputs
    from .comparison import ComparedTensor
    from .sides import Side

MOST = 64
"""No more tensors are read again for each question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """The answers."""

    orders: Mapping[str, str]
    """Name in A -> `rows` or `elements`, if B has these of it in another order."""
    exchanged: Mapping[str, str]
    """Name -> the name of the tensor of A that B has under it."""
    untied: Mapping[str, tuple[str, str]]
    """`A` or `B` -> head and embedding, where they should be the same tensor and differ."""
    of_base: Mapping[str, tuple[str, ...]]
    """`A` or `B` -> the tensors that differ and are the original model's there, in the dtype they are stored in."""
    scales: tuple[OtherScale, ...]
    """Tensors that have an adapter more or less than once."""


def probe(
    a: Side,
    b: Side,
    tensors: Sequence[ComparedTensor],
    inputs: Inputs,
    progress: Callable[[int], None],
    *,
    base: str | None,
) -> Probed:
    """Read again what raises a question. `base`: directory of the original model, if it is known."""
    exchanged = _exchanged(a, b, tensors, inputs, progress)
    orders = {}
    # What only one side has quantized has no element in common with the other, in whatever order.
    alike = [each for each in tensors if a.schemes.get(each.name) == b.schemes.get(each.name_b)]
    for tensor in [each for each in alike if each.name not in exchanged and _may_be_reordered(each)][:MOST]:
        rows = tensor.shape_a[0] if len(tensor.shape_a) > 1 else 1
        left, right = a.tensors[tensor.name].recipe, b.tensors[tensor.name_b].recipe
        order = other_order(left, right, inputs, rows=rows, progress=progress)
        if order is not None:
            orders[tensor.name] = order
    untied = {
        letter: names for letter, side in (("A", a), ("B", b)) if (names := _untied(side, inputs, progress)) is not None
    }
    of_base = _of_base(a, b, tensors, base, inputs, progress)
    scales = other_scales(a, b, tensors, inputs, progress)
    return Probed(orders=orders, exchanged=exchanged, untied=untied, of_base=of_base, scales=scales)


def _may_be_reordered(tensor: ComparedTensor) -> bool:
    """Whether both have as many zeros, the same norm and the same peak, but not the same elements. Of 16-bit copies the
    norms are close."""
    found = tensor.figures
    if tensor.state != "differs" or found is None or found.unlike or math.prod(tensor.shape_a) < 2:
        return False
    near = 1e-9 if tensor.dtype_a == tensor.dtype_b else 1e-2
    return math.isclose(found.norm_a, found.norm_b, rel_tol=near) and math.isclose(
        found.peak_a, found.peak_b, rel_tol=near
    )


def _exchanged(
    a: Side,
    b: Side,
    tensors: Sequence[ComparedTensor],
    inputs: Inputs,
    progress: Callable[[int], None],
) -> dict[str, str]:
    """Tensors of B that are another tensor of A, bit for bit."""
    by_figures: dict[tuple[object, ...], list[str]] = {}
    differing = [each for each in tensors if each.state == "differs" and each.dtype_a == each.dtype_b]
    for each in differing:
        found = each.figures
        if found is not None and found.zeros_a < found.numel:
            by_figures.setdefault((each.shape_a, found.norm_a, found.peak_a, found.zeros_a), []).append(each.name)
    exchanged: dict[str, str] = {}
    tried = 0
    for each in differing:
        found = each.figures
        key = None if found is None else (each.shape_b, found.norm_b, found.peak_b, found.zeros_b)
        for other in by_figures.get(key, ()) if key is not None else ():
            if other == each.name or tried >= MOST:
                continue
            tried += 1
            left, right = a.tensors[other].recipe, b.tensors[each.name_b].recipe
            if first_difference(inputs, left, right, start=0, stop=left.numel, progress=progress) is None:
                exchanged[each.name] = other
                break
    return exchanged


def _untied(side: Side, inputs: Inputs, progress: Callable[[int], None]) -> tuple[str, str] | None:
    """Head and input embedding, if config.json says that they are one and both are stored and differ."""
    if not side.is_tied:
        return None
    heads = [name for name in side.tensors if name.endswith(("lm_head.weight", "embed_out.weight"))]
    embeddings = [
        name
        for name in side.tensors
        if kind_of(name) == "embedding" and name.endswith(("embed_tokens.weight", "wte.weight", "embed_in.weight"))
    ]
    for head in heads:
        for embedding in embeddings:
            left, right = side.tensors[embedding], side.tensors[head]
            if left.recipe is right.recipe or left.shape != right.shape:
                continue
            differs = first_difference(
                inputs, left.recipe, right.recipe, start=0, stop=left.recipe.numel, progress=progress
            )
            return None if differs is None else (head, embedding)
    return None


def _of_base(
    a: Side,
    b: Side,
    tensors: Sequence[ComparedTensor],
    base: str | None,
    inputs: Inputs,
    progress: Callable[[int], None],
) -> dict[str, tuple[str, ...]]:
    """Which tensors that differ are the original model's. Nothing of a side that is this model itself."""
    if base is None:
        return {}
    try:
        original = read_weights(base).tensors
    except ZeroConsolidateError:
        return {}  # the merge says what is wrong with it
    found: dict[str, list[str]] = {"A": [], "B": []}
    for letter, side in (("A", a), ("B", b)):
        if side.directory is not None and real(side.directory) == real(base):
            continue
        for tensor in [each for each in tensors if each.state == "differs" and each.name in original][:MOST]:
            own, there = side.tensors[tensor.name if letter == "A" else tensor.name_b], original[tensor.name]
            if own.recipe.is_copied and own.shape == there.shape and own.recipe.dtype.is_floating:
                differs = first_difference(
                    inputs, View(there), own.recipe, start=0, stop=there.numel, progress=progress
                )
                if differs is None:
                    found[letter].append(tensor.name)
    return {letter: tuple(names) for letter, names in found.items() if names}
