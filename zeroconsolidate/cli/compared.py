"""A comparison of two models -> the text that the command prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..archive.phrases import counted, listed
from ..options import size_text
from .rows import at_most, once, rows_text, time_row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..audit.comparison import ComparedSide, ComparedTensor, ModelComparison
    from ..audit.figures import Figures

LAYERS = 8
"""So many layers are listed: those that differ most."""
TENSORS = 5
"""So many tensors are listed: those that differ most."""


def comparison_text(found: ModelComparison, *, tensors: bool) -> str:
    """What a comparison found: the result, what is suspicious, figures by kind and layer. `tensors`: list each."""
    states = [tensor.state for tensor in found.tensors]
    rows = [
        ("A", _side_text(found.a)),
        ("B", _side_text(found.b)),
        *([("names", f"B's, to match: {found.names}")] if found.names else []),
        *(("SUSPICIOUS", text) for text in at_most(found.suspicions, 20)),
        *_only("A", found.only_a),
        *_only("B", found.only_b),
        *(("shape", _shape_text(tensor)) for tensor in _first(found.tensors, "shape")),
        *([("equal", counted(states.count("equal"), "tensor"))] if "equal" in states else []),
        *([("rounded", _rounded_text(states))] if "rounded" in states else []),
    ]
    if found.whole.changed and ("differs" in states or "shape" in states):
        measured = sum(tensor.state == "differs" and tensor.figures is not None for tensor in found.tensors)
        rows.append(("differ", f"{counted(measured, 'tensor')}, {_changed_text(found.whole)}"))
        rows += [("" if n else "by kind", text) for n, text in enumerate(_table(list(found.kinds.items())))]
        layers = sorted(found.layers.items(), key=lambda layer: -layer[1].relative)[:LAYERS]
        kept = [layer for layer in found.layers.items() if layer in layers]
        rows += [
            ("" if n else "by layer", text)
            for n, text in enumerate(_table(kept, len(found.layers) - len(kept), "layers") if kept else [])
        ]
        rows += [("" if n else "most", text) for n, text in enumerate(_most(found.tensors))]
        rows += [
            ("rows", _rows_text(tensor)) for tensor in found.tensors if tensor.changed_rows and not tensor.is_same
        ][:4]
    unknown = [tensor.name for tensor in found.tensors if tensor.state == "differs" and tensor.figures is None]
    if unknown:
        what = f"{counted(len(unknown), 'tensor')} quantized in a format that is not known: {listed(unknown, 2)}"
        rows.append(("differ", what))
    rows += [
        *(("note", text) for text in at_most(once(found.notes), 12)),
        ("read", f"{size_text(found.bytes_read)} in {time_row(found.seconds, found.gb_per_second)}"),
    ]
    text = f"{_head(found)}\n{rows_text(rows)}"
    return f"{text}\n{_tensors_text(found.tensors)}" if tensors else text


def _head(found: ModelComparison) -> str:
    within = "" if found.tolerance is None else f" within {found.tolerance}"
    if found.equal:
        return f"A and B are equal{within}"
    beyond = [f"{len(found.beyond)} of {counted(len(found.tensors), 'tensor')}"] if found.beyond else []
    only = len(found.only_a) + len(found.only_b)
    lacking = [f"{counted(only, 'tensor')} only in one of them"] if only else []
    return f"A and B differ: {', '.join([*beyond, *lacking])}" + (
        f" beyond {found.tolerance}" if within and beyond else ""
    )


def _side_text(side: ComparedSide) -> str:
    dtypes = listed(list(side.dtypes), 4)
    return (
        f"{side.path}: {side.what}; {counted(side.parameters, 'parameter')} in {counted(side.tensors, 'tensor')}, "
        f"{dtypes or 'no dtype'}"
    )


def _only(letter: str, names: Sequence[str]) -> list[tuple[str, str]]:
    return [(f"only in {letter}", f"{counted(len(names), 'tensor')}: {listed(list(names), 4)}")] if names else []


def _first(tensors: Sequence[ComparedTensor], state: str) -> list[ComparedTensor]:
    return [tensor for tensor in tensors if tensor.state == state][:4]


def _shape_text(tensor: ComparedTensor) -> str:
    rows = " (the rows that both have are compared)" if tensor.figures is not None else ""
    return f"{tensor.name}: {list(tensor.shape_a)} in A, {list(tensor.shape_b)} in B{rows}"


def _rounded_text(states: Sequence[str]) -> str:
    return f"{counted(states.count('rounded'), 'tensor')}, equal once rounded to the narrower dtype of the two"


def _changed_text(whole: Figures) -> str:
    return (
        f"{whole.changed:,} of {counted(whole.numel, 'element')}; largest difference {number(whole.largest)}, "
        f"relative difference {percent(whole.relative)}"
    )


def _table(figures: Sequence[tuple[str, Figures]], left: int = 0, what: str = "") -> list[str]:
    """A line for each, under a head: how much it differs. `left`: how many more there are, of `what`."""
    width = max((len(name) for name, _ in figures), default=0)
    lines = [f"{name:<{width}}  {_figures_text(found)}" for name, found in figures]
    head = f"{'':<{width}}  {'relative':>9}  {'largest':>8}  cosine"
    return [head, *lines, *([f"and {left} more {what} that differ less"] if left else [])]


def _figures_text(found: Figures) -> str:
    if not found.changed:
        return f"{'equal':>9}"
    cosine = "" if found.cosine is None else cosine_text(found.cosine)
    return f"{percent(found.relative):>9}  {number(found.largest):>8}  {cosine}".rstrip()


def _most(tensors: Sequence[ComparedTensor]) -> list[str]:
    """The tensors that differ most."""
    differing = [(each.name, each.figures) for each in tensors if each.figures is not None and not each.is_same]
    differing.sort(key=lambda each: -each[1].relative)
    return _table(differing[:TENSORS], len(differing[TENSORS:]), "tensors")


def _rows_text(tensor: ComparedTensor) -> str:
    rows = tensor.changed_rows or 0
    some = listed([str(row) for row in tensor.first_rows], 8) if rows <= len(tensor.first_rows) else ""
    return f"{tensor.name}: {rows:,} of {tensor.shape_a[0]:,} rows differ" + (f": {some}" if some else "")


def _tensors_text(tensors: Sequence[ComparedTensor]) -> str:
    width = max((len(tensor.name) for tensor in tensors), default=0)
    return "\n".join(
        f"  {tensor.name:<{width}}  {tensor.state:<7}  "
        + (_figures_text(tensor.figures) if tensor.figures is not None and tensor.state != "equal" else "")
        for tensor in tensors
    ).rstrip()


def number(value: float) -> str:
    """A number with three digits.

    >>> number(0.012345), number(0.0), number(3.2e-9)
    ('0.0123', '0', '3.2e-09')
    """
    return f"{value:.3g}"


def percent(share: float) -> str:
    """A share in percent with three digits.

    >>> percent(0.0123), percent(1.0), percent(2e-9)
    ('1.23 %', '100 %', '2e-07 %')
    """
    return f"{100 * share:.3g} %"


def cosine_text(cosine: float) -> str:
    """A cosine with as many digits as tell it from 1.

    >>> cosine_text(0.5), cosine_text(0.99999123), cosine_text(1.0)
    ('0.500', '0.999991', '1')
    """
    digits = 3 if cosine < 0.999 else 6
    while digits < 12 and cosine < 1 and float(f"{cosine:.{digits}f}") == 1:
        digits += 1
    return "1" if cosine == 1 else f"{cosine:.{digits}f}"
