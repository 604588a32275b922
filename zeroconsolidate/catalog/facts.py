"""The facts of a checkpoint, as types. Everything after `catalog` reads only these."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from array import array
    from collections.abc import Mapping

    from ..archive.located import LocatedTensor
    from ..dtypes import DType
    from .rules import Join
    from .state import MasterState, Step
    from .training import Training

Shape: TypeAlias = tuple[int, ...]


class Cut(Enum):
    """How a flat group is spread over ranks."""

    CONTIGUOUS = "stages 1 and 2: members are laid end to end, the buffer is cut into one partition a rank"
    STRIPED = "stage 3: every member is cut for itself, a partition is the ranks' stripes end to end"


def stripe_numel(numel: int, ranks: int) -> int:
    """Elements of the stripe that each of so many ranks holds of a parameter at stage 3 (`_partition_numel` in
    `deepspeed/runtime/zero/partition_parameters.py`); the last ones may be padding."""
    return -(-numel // ranks)


@dataclass(frozen=True, slots=True)
class Member:
    """A parameter in a flat group."""

    name: str
    shape: Shape
    padding_numel: int = 0
    """Elements of padding behind it (`param_alignment_paddings`; contiguous groups only)."""
    is_spare: bool = False
    """Whether the training code declares this to be one of several copies, of which only the first pipeline stage's
    counts."""

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatGroup:
    """One 1-D buffer of master weights, with what it holds in order and where each rank keeps its partition."""

    index: int
    cut: Cut
    members: tuple[Member, ...]
    partitions: tuple[LocatedTensor, ...]
    """By rank of the set that shares the group: 1-D and contiguous."""
    states: Mapping[str, tuple[LocatedTensor, ...]]
    """By name, such as `exp_avg`: the partitions of what the optimizer keeps of each element, of the ranks that have
    it. They hold the same members in the same places."""
    step: Step
    """The optimizer's step of this group, as saved."""
    holder: str = "all ranks"
    """The set of ranks, in words: `pipeline stage 1`, `expert rank 0`."""


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
class Part:
    """What one slice of the model's ranks holds: everything, unless tensors are cut over tensor-parallel ranks
    or experts stacked over expert-parallel ranks. Then each rank of that axis has one part, and a name that several
    parts hold is joined as `Catalog.joins` says.

    Within a part, a name that is held several times (a tie over pipeline stages, a shard group smaller than the
    world) has replicas, which must be equal.
    """

    index: int
    """Rank on the axis along which tensors are cut."""
    groups: tuple[FlatGroup, ...]
    masters: tuple[Mapping[str, LocatedTensor], ...]
    """Trainable parameters that are saved whole, one mapping for each file that has them."""
    master_states: tuple[Mapping[str, MasterState], ...]
    """For each of `masters`: what the optimizer keeps of them, where the files say of which it is."""
    frozen: Mapping[str, Frozen]
    buffers: Mapping[str, LocatedTensor]
    module: Mapping[str, LocatedTensor]
    """The 16-bit (or fp32) copies saved beside the masters, aliases included; empty at stage 3. The witness."""

    @property
    def saved_masters(self) -> dict[str, LocatedTensor]:
        """`masters`, of all files together."""
        return {name: master for held in self.masters for name, master in held.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Unnamed:
    """Master weights that were saved without names (stage 0), and the names they can have.

    Which is which follows from order, shape and value: a master, rounded, is its 16-bit copy. Reading values is
    not the catalog's business, so it only states the question.
    """

    file: str
    part: int
    """Index in `Catalog.parts`."""
    groups: tuple[tuple[LocatedTensor, ...], ...]
    """By param group: the masters in the group's order; a single flat one where `fused`."""
    states: tuple[tuple[MasterState, ...], ...]
    """By param group, by master: what the optimizer keeps of it. Empty where no file says which is which."""
    fused: bool
    candidates: tuple[Mapping[str, LocatedTensor], ...]
    """By param group: names with their copies, in the order of the module."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaybeTie:
    """A tensor of the module that nothing lists: frozen, or a second name of a parameter.

    Checkpoints of mixtures of experts give every name a storage of its own, so a tie that is not recorded can only
    be seen in the values.
    """

    part: int
    """Index in `Catalog.parts`."""
    name: str
    copy: LocatedTensor
    unlisted: bool
    """Frozen parameters are listed in this checkpoint, and this is not one of them."""


class Unsaved(Enum):
    """Why a parameter of the module has no value in the checkpoint."""

    NOT_OPTIMIZED = "they require gradients but were not given to the optimizer, and ZeRO stage 3 saves them nowhere"
    QUANTIZED = "'zero_quantized_nontrainable_weights' made whole numbers of them, and their scale is not saved"


@dataclass(frozen=True, slots=True, kw_only=True)
class Degrees:
    """How many ranks share the work along each axis."""

    dp: int = 1
    tp: int = 1
    pp: int = 1
    ep: int = 1
    """Expert-parallel ranks; they are data-parallel ranks as well."""

    def __str__(self) -> str:
        named = [f"{name} {n}" for name, n in (("tp", self.tp), ("pp", self.pp), ("ep", self.ep)) if n > 1]
        return " x ".join([f"dp {self.dp}", *named])


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
    degrees: Degrees
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
    wrapper: str
    """DeepSpeed's class around the optimizer, by what it saves: `DeepSpeedZeroOptimizer`, `BF16_Optimizer`, …"""
    writer: str
    """The container of the files, as `RawFile.container` says."""

    @property
    def saves_copies(self) -> bool:
        """Whether model files have a 16-bit copy of the weights; at stage 3 they have placeholders."""
        return self.stage < 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """Everything a checkpoint says about its model; the ranks have been compared and agree."""

    origin: Origin
    files: tuple[str, ...]
    """Every file that was read."""
    looks: Mapping[str, Mapping[str, int | str]]
    """Path -> what the file looked like before any was read, of files of this machine."""
    parts: tuple[Part, ...]
    joins: Mapping[str, Join]
    """By name, for tensors that several parts hold; a name that is not here is replicated."""
    stacked: Mapping[str, tuple[LocatedTensor, ...]]
    """By name of a tensor that stacks experts: the copy of each expert (AutoEP's expert files). A witness."""
    unnamed: tuple[Unnamed, ...]
    """Questions that only values can answer; until they are, the 16-bit copies stand in for the masters."""
    doubts: tuple[str, ...]
    """Names of split tensors that are in no list, and that may be replicated: only their values show it."""
    maybe_ties: tuple[MaybeTie, ...]
    """More questions for values: until they are answered, each is a parameter of its own."""
    ties: Mapping[str, str]
    """alias -> the name under which its parameter is stored; never an alias itself."""
    order: tuple[str, ...]
    """All names, aliases included, in the order of the module's state dict."""
    unplaced: tuple[str, ...]
    """Names of optimizer state that is not laid out like the parameters; weights do not need it."""
    missing: tuple[str, ...]
    """Files that should be there and are not. If there are any, partitions are incomplete and nothing can be placed."""
    notes: tuple[str, ...]
    """Notes for the report: what was left out, or decided without proof."""
    unsaved_ties: Mapping[str, str]
    """alias -> name, where neither is among `order`: frozen parameters that their trainer left out, and `unsaved`."""
    unsaved: Mapping[str, Unsaved]
    """Parameters that the module lists and no file has the values of; none is among `order`."""
    training: Training | None
    """What an engine reads at resume besides tensors; None where no optimizer file says it."""
    listed: Mapping[str, str]
    """Name -> what optimizer files call it, where that differs from the module's name."""
    noted: Mapping[str, tuple[str, ...]]
    """For notes about several tensors: the note -> all of their names."""

    @property
    def groups(self) -> tuple[FlatGroup, ...]:
        """The flat groups of all parts."""
        return tuple(group for part in self.parts for group in part.groups)

    @property
    def frozen(self) -> Mapping[str, Frozen]:
        """Frozen parameters, as the first part that has them holds them."""
        return {name: held for part in reversed(self.parts) for name, held in part.frozen.items()}

    @property
    def buffers(self) -> Mapping[str, LocatedTensor]:
        """Buffers, as the first part that has them holds them."""
        return {name: held for part in reversed(self.parts) for name, held in part.buffers.items()}

    @property
    def module(self) -> Mapping[str, LocatedTensor]:
        """The copies that witness the masters, as the first part that has them holds them."""
        return {name: held for part in reversed(self.parts) for name, held in part.module.items()}
