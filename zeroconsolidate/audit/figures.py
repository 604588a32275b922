"""How much the elements of two models differ, in figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..run.statistics import Statistics, Values


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """How much elements differ: of one tensor, of all of a kind, of a layer, or of the whole model.

    Attributes
    ----------
    numel : int
        Pairs of elements that were compared.
    changed : int
        Pairs whose values differ. NaN equals NaN.
    unlike : int
        Those of them of which one is not finite.
    largest : float
        The largest absolute difference.
    largest_relative : float
        The largest difference of two elements, relative to the larger of their absolute values.
    relative : float
        The norm of the difference, relative to the larger norm of the two.
    cosine : float | None
        Cosine of the angle between both as vectors; None if one of them is zero.
    norm_a : float
        Euclidean norm of the first.
    norm_b : float
        Euclidean norm of the second.
    peak_a : float
        Largest absolute value of the first.
    peak_b : float
        Largest absolute value of the second.
    nan_a : int
        NaN in the first.
    nan_b : int
        NaN in the second.
    infinite_a : int
        Infinite elements of the first.
    infinite_b : int
        Infinite elements of the second.
    zeros_a : int
        Elements of the first that are 0.
    zeros_b : int
        Elements of the second that are 0.

    Examples
    --------
    >>> import zeroconsolidate
    >>> models = "tests/fixtures/models"
    >>> found = zeroconsolidate.compare(f"{models}/_bases/llama", f"{models}/llm_untied_z3/checkpoint")
    >>> found.whole.numel, round(found.whole.relative, 2)
    (13136, 0.29)
    """

    numel: int
    changed: int
    unlike: int
    largest: float
    largest_relative: float
    relative: float
    cosine: float | None
    norm_a: float
    norm_b: float
    peak_a: float
    peak_b: float
    nan_a: int
    nan_b: int
    infinite_a: int
    infinite_b: int
    zeros_a: int
    zeros_b: int


def figures_of(found: Statistics) -> Figures:
    """The figures of what was counted."""
    return Figures(
        numel=found.numel,
        changed=found.changed,
        unlike=found.unlike,
        largest=found.largest,
        largest_relative=found.largest_relative,
        relative=found.relative,
        cosine=found.cosine,
        **_sided("a", found.a),
        **_sided("b", found.b),
    )


def _sided(side: str, values: Values) -> dict[str, Any]:
    found = {
        "norm": values.norm,
        "peak": values.peak,
        "nan": values.nan,
        "infinite": values.infinite,
        "zeros": values.zeros,
    }
    return {f"{name}_{side}": value for name, value in found.items()}
