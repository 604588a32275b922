"""A comparison of two models -> its page: drift by layer and kind, and every tensor."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..archive.phrases import counted, listed
from ..audit.kinds import KINDS
from .charts import Square, bars, figure, legend, squares
from .markup import tag
from .page import facts, findings, page, section, texts
from .table import Column, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..audit.comparison import ComparedTensor, ModelComparison
    from ..audit.figures import Figures
    from .markup import Markup
    from .table import Cell

STEPS = ((0.0, "equal"), (1e-6, "up to 0.0001 %"), (1e-4, "up to 0.01 %"), (1e-2, "up to 1 %"), (0.1, "up to 10 %"),
         (0.5, "up to 50 %"))  # fmt: skip
"""Upper ends of the relative differences that have the same colour; above the last there is one more."""
OUTSIDE = "outside"
"""The column of what belongs to no layer."""


def comparison_page(found: ModelComparison) -> str:
    """The page."""
    words = tag("p", _result(found), class_=f"lead {'good' if found.equal else 'bad'}")
    differing = [tensor for tensor in found.tensors if not tensor.is_same]
    return page(
        "Two models compared",
        words,
        section("Models", facts(_sides(found))),
        section("Suspicious", findings(found.suspicions)),
        section("Only in one of them", texts([*_only("A", found.only_a), *_only("B", found.only_b)])),
        section("Drift by layer and kind", _map(found)) if found.tensors else section(""),
        section("Drift by kind", _by_kind(found)) if found.kinds else section(""),
        section("Vocabulary", texts(_rows(found.tensors))),
        section(
            "Tensors",
            table(
                f"{counted(len(found.tensors), 'tensor')}, of which {len(differing):,} differ",
                _COLUMNS,
                map(_row, found.tensors),
            ),
            id_="tensors",
        ),
        section("Notes", texts(found.notes)),
    )


def step_of(found: Figures | None) -> int:
    """The step of the scale that a difference has: 0 for none."""
    if found is None or not found.changed:
        return 0
    if found.unlike:
        return len(STEPS)
    return next((n for n, (upto, _) in enumerate(STEPS) if n and found.relative <= upto), len(STEPS))


def _result(found: ModelComparison) -> str:
    within = "" if found.tolerance is None else f" within {found.tolerance}"
    if found.equal:
        return f"A and B are equal{within}."
    return (
        f"A and B differ: {len(found.beyond):,} of {counted(len(found.tensors), 'common tensor')}, "
        f"{len(found.only_a)} only in A, {len(found.only_b)} only in B. Relative difference of all: "
        f"{share(found.whole.relative)}."
    )


def _sides(found: ModelComparison) -> list[tuple[str, str]]:
    return [
        *(
            (
                letter,
                f"{side.path}: {side.what}; {counted(side.parameters, 'parameter')} in "
                f"{counted(side.tensors, 'tensor')}, {', '.join(side.dtypes)}",
            )
            for letter, side in (("A", found.a), ("B", found.b))
        ),
        *([("Names of B", f"to match: {found.names}")] if found.names else []),
    ]


def _only(letter: str, names: Sequence[str]) -> list[str]:
    return [f"only in {letter}: {name}" for name in names]


def _map(found: ModelComparison) -> Markup:
    # A layer whose tensors all have other shapes has no figures of its own.
    layers = list(dict.fromkeys([*found.layers, *(tensor.layer for tensor in found.tensors if tensor.layer)]))
    columns = [*layers, OUTSIDE]
    place_of = {layer: place for place, layer in enumerate(columns)}
    kinds = [kind for kind in KINDS if any(tensor.kind == kind for tensor in found.tensors)]
    worst: dict[tuple[str, str], tuple[int, ComparedTensor]] = {}
    for tensor in found.tensors:
        place = tensor.kind, tensor.layer or OUTSIDE
        is_unmeasured = tensor.state == "shape" or (tensor.figures is None and not tensor.is_same)
        step = len(STEPS) if is_unmeasured else step_of(tensor.figures)
        if place not in worst or step > worst[place][0]:
            worst[place] = step, tensor
    cells = [
        Square(
            style=f"h{step}",
            title=f"{layer}, {kind}: {_words(tensor)}",
            row=kinds.index(kind),
            column=place_of[layer],
        )
        for (kind, layer), (step, tensor) in worst.items()
    ]
    description = (
        f"Relative difference of the tensor that differs most, for {counted(len(layers), 'layer')} and "
        f"{counted(len(kinds), 'kind')}. The table below has the numbers."
    )
    picture = squares(
        "Drift by layer and kind", description, kinds, [_number(c) for c in columns], cells, "layer", apart=True
    )
    entries = [(f"h{n}", words) for n, (_, words) in enumerate(STEPS)]
    return figure(
        picture,
        "Each square is the tensor of that kind that differs most in its layer: norm of the difference, relative to "
        "the larger norm of both.",
        legend([*entries, (f"h{len(STEPS)}", "more, another shape, or not finite")]),
    )


def _words(tensor: ComparedTensor) -> str:
    if tensor.state == "shape":
        return f"{tensor.name} has another shape"
    if tensor.figures is None and not tensor.is_same:
        return f"{tensor.name} is not the same, in a format of quantization that is not known"
    relative = 0.0 if tensor.figures is None else tensor.figures.relative
    return f"{share(relative)} ({tensor.name})"


def _number(layer: str) -> str:
    return layer.rpartition(".")[2]


def _by_kind(found: ModelComparison) -> Markup:
    rows = [
        (kind, figures.relative, f"{share(figures.relative)}, cosine {cosine(figures.cosine)}", f"k{KINDS.index(kind)}")
        for kind, figures in found.kinds.items()
    ]
    spoken = "; ".join(f"{kind} {share(figures.relative)}" for kind, figures in found.kinds.items())
    return figure(
        bars("Drift by kind", f"Relative difference of all tensors of a kind together: {spoken}", rows),
        "Norm of the difference of all tensors of a kind, relative to the larger norm of both.",
    )


def _rows(tensors: Sequence[ComparedTensor]) -> list[str]:
    return [
        f"{tensor.name}: {tensor.changed_rows:,} of {tensor.shape_a[0]:,} rows differ"
        + (f" ({listed([str(row) for row in tensor.first_rows], 16)})" if tensor.changed_rows <= 64 else "")
        for tensor in tensors
        if tensor.changed_rows and not tensor.is_same
    ]


_COLUMNS = (
    Column("tensor"), Column("kind"), Column("state"), Column("relative", True), Column("largest", True),
    Column("cosine", True), Column("changed", True), Column("norm of A", True), Column("norm of B", True),
    Column("dtypes"), Column("shape"),
)  # fmt: skip


def _row(tensor: ComparedTensor) -> list[Cell]:
    found = tensor.figures
    same = tensor.dtype_a == tensor.dtype_b
    shape = str(list(tensor.shape_a)) + ("" if tensor.shape_a == tensor.shape_b else f" / {list(tensor.shape_b)}")
    numbers: list[Cell] = [("", None)] * 6
    if found is not None:
        numbers = [
            (share(found.relative), found.relative),
            (f"{found.largest:.3g}", found.largest),
            (cosine(found.cosine), found.cosine),
            (f"{found.changed:,}", found.changed),
            (f"{found.norm_a:.4g}", _finite(found.norm_a)),
            (f"{found.norm_b:.4g}", _finite(found.norm_b)),
        ]
    dtypes = tensor.dtype_a if same else f"{tensor.dtype_a} / {tensor.dtype_b}"
    return [tensor.name, tensor.kind, tensor.state, *numbers, dtypes, shape]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def share(value: float) -> str:
    """A share in percent.

    >>> share(0.0), share(0.01234)
    ('0 %', '1.23 %')
    """
    return f"{100 * value:.3g} %"


def cosine(value: float | None) -> str:
    """A cosine, or nothing.

    >>> cosine(0.98765), cosine(0.99999876), cosine(1 - 1e-12), cosine(None)
    ('0.9877', '0.99999876', '1', '')
    """
    if value is None:
        return ""
    return f"{value:.8f}".rstrip("0").rstrip(".") if value > 0.9999 else f"{value:.4g}"
