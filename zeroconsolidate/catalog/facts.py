"""The facts a checkpoint states, as types. Later stages read only these."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from array import array
    from collections.abc import Mapping

    from ..archive.located import LocatedTensor
    from ..dtypes import DType

Shape: TypeAlias = tuple[int, ...]


class Cut(Enum):
    """How a flat group is spread over ranks."""

    CONTIGUOUS = "stages 1 and 2: members are laid end to end, the buffer is cut into one partition a rank"
    STRIPED = "stage 3: every member is cut for itself, a partition is the ranks' stripes end to end"


@dataclass(frozen=True, slots=True)
class Member:
    """A parameter in a flat group."""

    name: str
    shape: Shape
    padding_numel: int = 0
    """Elements of padding behind it (`param_alignment_paddings`; contiguous groups only)."""

    @property
    def numel(self) -> int:
        numel = 1
        for n in self.shape:
            numel *= n
        return numel


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatGroup:
    """One 1-D buffer of master weights, with what it holds in order and where each rank keeps its partition."""

    index: int
    cut: Cut
    members: tuple[Member, ...]
    partitions: tuple[LocatedTensor, ...]
    """By rank: 1-D and contiguous."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenStripes:
    """A frozen parameter at stage 3: each rank's file holds the stripe of ceil(numel / ranks) elements."""

    shape: Shape
    dtype: DType
    big_endian: bool
    files: tuple[str, ...]
    """By rank; one tuple for all parameters."""
    starts: array[int]
    """By rank: the byte of its file at which the stripe begins."""


Frozen: TypeAlias = "LocatedTensor | FrozenStripes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a checkpoint comes from."""

    root: str
    tag: str
    tags: tuple[str, ...]
    latest: str | None
    stage: int
    world_size: int
    """Data-parallel ranks."""
    step: int | None
    """`global_steps` of the engine."""
    ds_version: str | None
    training_dtype: DType
    """The dtype of most trainable elements in the module (placeholders keep it at stage 3)."""
    optimizer: str | None
    """`optimizer.type` of the DeepSpeed config, where the optimizer was built by DeepSpeed."""
    optimizer_state: tuple[str, ...]
    """Names of what the optimizer keeps a value of for each element, such as `exp_avg`."""
    param_groups: tuple[Mapping[str, object], ...]
    """The optimizer's settings a group: the plain values (lr, betas, weight_decay, …)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """Everything a checkpoint says about its model; the ranks have been compared and agree."""

    origin: Origin
    files: tuple[str, ...]
    """Every file that was read."""
    groups: tuple[FlatGroup, ...]
    frozen: Mapping[str, Frozen]
    buffers: Mapping[str, LocatedTensor]
    ties: Mapping[str, str]
    """alias -> the name under which its parameter is stored; never an alias itself."""
    order: tuple[str, ...]
    """All names, aliases included, in the order of the module's state dict."""
    module: Mapping[str, LocatedTensor]
    """The 16-bit (or fp32) copies saved beside the masters, aliases included; empty at stage 3. The witness."""
    missing: tuple[str, ...]
    """Files that should be there and are not. Unless empty, partitions are incomplete and nothing can be placed."""
    notes: tuple[str, ...]
    """What a person should know: things left out or decided without proof."""
    unsaved_ties: Mapping[str, str] = field(default_factory=dict)
    """alias -> name, where neither is among `order`: frozen parameters that their trainer left out."""
