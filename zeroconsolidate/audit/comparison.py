"""The result of comparing two models: figures for each tensor, for each kind and layer, and what is suspicious."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .figures import Figures


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedSide:
    """One of the two models that were compared.

    Attributes
    ----------
    path : str
        As it was given.
    what : str
        What is there, in words.
    tensors : int
        Tensors, second names of tied ones not counted.
    parameters : int
        Their elements.
    dtypes : dict[str, int]
        Elements by dtype.

    Examples
    --------
    >>> import zeroconsolidate
    >>> models = "tests/fixtures/models"
    >>> found = zeroconsolidate.compare(f"{models}/_bases/llama", f"{models}/llm_untied_z3/checkpoint")
    >>> found.a.what, found.a.dtypes
    ('model directory', {'float32': 13136})
    """

    path: str
    what: str
    tensors: int
    parameters: int
    dtypes: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedTensor:
    """One tensor that both have.

    Attributes
    ----------
    name : str
        Its name in the first.
    name_b : str
        Its name in the second, before any prefix is removed.
    kind : str
        `embedding`, `attention`, `mlp`, `experts`, `router`, `norm`, `adapter`, `head` or `other`.
    layer : str | None
        The numbered layer it belongs to; None if to none.
    role_a : str | None
        `trainable`, `frozen` or `buffer` if the first is a checkpoint; None if it does not say.
    role_b : str | None
        The same of the second.
    dtype_a : str
        The dtype it is stored in: of a quantized weight, that of its numbers.
    dtype_b : str
        The same in the second.
    shape_a : tuple[int, ...]
        Its shape.
    shape_b : tuple[int, ...]
        The same in the second. Where only the number of rows differs, the rows that both have are compared.
    state : str
        `equal`; `rounded`, if the narrower dtype has the other's values, rounded; `differs`; or `shape`, if the shapes
        do not fit and nothing was compared.
    figures : Figures | None
        How much they differ; None if nothing was compared, or only whether both store the same: what is quantized
        in a format that is not known has elements that are no weights.
    largest_at : tuple[int, ...] | None
        The indices of the element that differs most; None if none does.
    changed_rows : int | None
        Of a vocabulary: how many rows differ; else None.
    first_rows : tuple[int, ...]
        The first of these rows.
    is_same
    numel

    Examples
    --------
    >>> import zeroconsolidate
    >>> models = "tests/fixtures/models"
    >>> found = zeroconsolidate.compare(f"{models}/_bases/llama", f"{models}/llm_untied_z3/checkpoint")
    >>> tensor = found.tensors[0]
    >>> tensor.name, tensor.kind, tensor.state, tensor.changed_rows
    ('lm_head.weight', 'head', 'differs', 288)
    """

    name: str
    name_b: str
    kind: str
    layer: str | None
    role_a: str | None
    role_b: str | None
    dtype_a: str
    dtype_b: str
    shape_a: tuple[int, ...]
    shape_b: tuple[int, ...]
    state: str
    figures: Figures | None
    largest_at: tuple[int, ...] | None
    changed_rows: int | None
    first_rows: tuple[int, ...]

    @property
    def is_same(self) -> bool:
        """Whether it has the same values in both, as far as its dtypes can hold them."""
        return self.state in ("equal", "rounded")

    @property
    def numel(self) -> int:
        """Elements of the first."""
        return math.prod(self.shape_a)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelComparison:
    """Two models, tensor by tensor.

    :func:`zeroconsolidate.compare` returns it.

    Attributes
    ----------
    a : ComparedSide
        The first.
    b : ComparedSide
        The second.
    names : str
        How names of the second were matched with those of the first, in words; empty if they are the same.
    tolerance : str | None
        What was given as `tolerance`.
    suspicions : tuple[str, ...]
        What may be a fault, in words, the gravest first.
    only_a : tuple[str, ...]
        Tensors that only the first has.
    only_b : tuple[str, ...]
        Tensors that only the second has, by its names.
    beyond : tuple[str, ...]
        Tensors that differ by more than `tolerance`.
    whole : Figures
        Of all elements together.
    kinds : dict[str, Figures]
        By kind of module.
    layers : dict[str, Figures]
        By numbered layer.
    tensors : tuple[ComparedTensor, ...]
        Every tensor that both have, in the order of the first.
    notes : tuple[str, ...]
        What could not be compared, and what was decided.
    bytes_read : int
        Bytes that were read from both.
    seconds : float
        How long it took.
    equal
    gb_per_second

    Examples
    --------
    >>> import zeroconsolidate
    >>> base = "tests/fixtures/models/_bases/llama"
    >>> zeroconsolidate.compare(base, base).equal
    True
    """

    a: ComparedSide
    b: ComparedSide
    names: str
    tolerance: str | None
    suspicions: tuple[str, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    beyond: tuple[str, ...]
    whole: Figures
    kinds: dict[str, Figures]
    layers: dict[str, Figures]
    tensors: tuple[ComparedTensor, ...]
    notes: tuple[str, ...]
    bytes_read: int
    seconds: float

    @property
    def equal(self) -> bool:
        """Whether both have the same tensors, and none differs by more than `tolerance`."""
        return not (self.only_a or self.only_b or self.beyond)

    @property
    def gb_per_second(self) -> float:
        """Gigabytes (10**9 bytes) read per second."""
        return self.bytes_read / max(self.seconds, 1e-9) / 1e9

    def to_dict(self) -> dict[str, object]:
        """Return the fields as plain values, ready for JSON.

        Returns
        -------
        dict
            The fields by name, and those within them. Sums too large for float64 are its largest number.
        """
        found: dict[str, object] = _finite(asdict(self))
        return found | {"equal": self.equal, "gb_per_second": round(self.gb_per_second, 3)}


def _finite(value: Any) -> Any:
    """With the largest float64 in place of infinity, which JSON does not have: sums of squares may be too large."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_finite(item) for item in value]
    return sys.float_info.max if value == math.inf else value
