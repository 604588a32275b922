"""How tensors are put together of which each rank holds a part: facts, like those in `facts.py`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Rule(Enum):
    """How the parts of a tensor make the whole, where no widths or maps are needed to say it."""

    REPLICATED = "every part has the whole tensor, and all are equal"
    AVERAGED = "every part has the whole tensor; the whole is their mean"


@dataclass(frozen=True, slots=True)
class SubParameters:
    """`SubparamShape` of DeepSpeed: how a tensor is seen in which several are fused."""

    patterns: tuple[str, ...]
    """Of the names that it is about."""
    shape: tuple[int | tuple[int, ...], ...]
    """Of the whole; at `dim` the size of each sub-parameter. -1 stands for what remains."""
    dim: int


@dataclass(frozen=True, slots=True)
class Concatenated:
    """The parts laid side by side along a dimension; several sub-parameters (a fused q, k, v) separately."""

    dim: int
    widths: tuple[tuple[int, ...], ...] | None = None
    """By sub-parameter, by part. None: one sub-parameter, as wide as each part is."""
    view: tuple[int, ...] | None = None
    """The whole's shape as `dim` counts it, where that differs from the parts' own; -1 stands for what remains."""
    declared: SubParameters | None = None
    """What the checkpoint says of the sub-parameters, where it lists their sizes."""


@dataclass(frozen=True, slots=True)
class AffinePiece:
    """`whole.as_strided(shape, source)` equals `part.as_strided(shape, dest)`; offsets and strides in elements."""

    shape: tuple[int, ...]
    source: tuple[int, tuple[int, ...]]
    """(offset, strides) in the whole tensor."""
    dest: tuple[int, tuple[int, ...]]
    """(offset, strides) in the part."""


@dataclass(frozen=True, slots=True)
class Affine:
    """DeepSpeed's own map of a tensor (`affine_map`), the most exact statement there is."""

    shape: tuple[int, ...]
    """Of the whole."""
    pieces: tuple[tuple[AffinePiece, ...], ...]
    """By part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """How a tensor that several parts hold is put together."""

    rule: Rule | Concatenated | Affine
    rows: int | None = None
    """Keep so many rows of dimension 0: the rest pads a vocabulary to a multiple of the ranks."""
    is_default: bool = False
    """Whether this is an assumption, for a tensor that no list names."""
    stacks_experts: bool = False
    """Whether every part is a stack of experts, which dimension 0 counts (AutoEP)."""
