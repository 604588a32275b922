"""The contents of all files, typed and compared: what a catalog is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..archive.located import LocatedTensor
    from ..archive.raw import CheckpointFiles
    from .agree import Grid
    from .model_file import ModelFile
    from .optimizer_file import OptimizerFile
    from .pipeline import Layers
    from .rules import Join
    from .universal import Universal
    from .whole_optimizer import WholeOptimizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """Every file's content, typed and compared, by model-parallel rank."""

    files: CheckpointFiles
    grid: Grid
    world_size: int
    """Data-parallel ranks."""
    sharers: int
    """Those of them that have files: fewer with MiCS."""
    models: Mapping[int, tuple[ModelFile, ...]]
    """By data-parallel rank at stage 3, else one."""
    optimizers: Mapping[int, tuple[OptimizerFile, ...]]
    wholes: Mapping[int, tuple[WholeOptimizer, ...]]
    """Stage 0: the optimizer in one piece, by expert-parallel rank. Empty at other stages."""
    universal: Universal | None
    """The folder of a universal checkpoint, which takes the place of all optimizer files."""
    layers: Mapping[int, Layers]
    """By tensor-parallel rank: the layers of a pipeline."""
    experts: Mapping[int, Mapping[str, LocatedTensor]]
    """The tensors of expert files."""
    expert_paths: tuple[str, ...]
    stacks: Mapping[str, Join]
    """AutoEP's stacked experts, by name."""
    missing: tuple[str, ...]
    listed: Mapping[str, str] = field(default_factory=dict)
    """The module's name -> that in other lists, where a wrapper makes them differ; `plain.py` finds them."""

    @property
    def first(self) -> ModelFile:
        return self.models[0][0]

    @property
    def all_optimizers(self) -> list[OptimizerFile]:
        return [optimizer for ranks in self.optimizers.values() for optimizer in ranks]

    @property
    def all_wholes(self) -> list[WholeOptimizer]:
        return [whole for ranks in self.wholes.values() for whole in ranks]
