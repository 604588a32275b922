"""A `*_model_states.pt` -> typed facts (mirrors `DeepSpeedEngine.save_checkpoint` in `deepspeed/runtime/engine.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import DamagedFile, at
from . import fields
from .keys import check_model_keys

if TYPE_CHECKING:
    from ..archive.located import LocatedTensor
    from ..archive.raw import RawFile
    from .facts import Shape

MAX_WORLD_SIZE = 1 << 17
"""More data-parallel ranks than this are refused: each is expected to have files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """One rank's model states, as far as they describe the model."""

    rank: int
    """Data-parallel."""
    mp_rank: int
    file: str
    container: str
    module: Mapping[str, LocatedTensor]
    """Empty in a pipeline, which keeps the module in layer files."""
    buffer_names: tuple[str, ...] | None
    """None before DeepSpeed 0.4.2."""
    param_shapes: tuple[Mapping[str, Shape], ...] | None
    """By flat group, in the order in which the group was flattened. None where DeepSpeed did not record them."""
    frozen_shapes: Mapping[str, Shape] | None
    """None where DeepSpeed did not record them (stage 1, and before 0.9.1)."""
    frozen_fragments: Mapping[str, LocatedTensor]
    shared_params: Mapping[str, str]
    """alias -> canonical. DeepSpeed fills it on global rank 0 only."""
    skipped: tuple[str, ...]
    """Entries of the module that are not tensors."""
    optimizer: Mapping[str, Any] | None
    """The optimizer's own state dict, where it is not partitioned over files of its own (stage 0)."""
    step: int | None
    skipped_steps: int
    """Those of them in which gradients overflowed and the optimizer did nothing."""
    world_size: int | None
    """Data-parallel."""
    mp_world_size: int | None
    parallel: Mapping[str, Any]
    """`checkpoint_parallel_dimensions` (DeepSpeed >= 0.19.5): `tp_degree` and `pp_degree`."""
    universal: Mapping[str, Any]
    """`universal_checkpoint_info`: how tensors are cut over model-parallel ranks."""
    autoep_layers: tuple[Mapping[str, Any], ...]
    ds_version: str | None
    ds_config: Mapping[str, Any]

    @property
    def shapes(self) -> dict[str, Shape]:
        """`param_shapes` of all groups together."""
        return {name: shape for group in self.param_shapes or () for name, shape in group.items()}


def read_model_file(raw: RawFile) -> ModelFile:
    """Check and type one model file. Raises DamagedFile, or UnsupportedLayout for an unknown layout key."""
    content = raw.content
    with at(raw.name.name):
        check_model_keys(content)
        world_size = fields.optional(content, "dp_world_size", int)
        if world_size is not None and not 1 <= world_size <= MAX_WORLD_SIZE:
            raise DamagedFile("'dp_world_size' is impossible", expected=f"1 to {MAX_WORLD_SIZE}", found=world_size)
        mp_world_size = fields.optional(content, "mp_world_size", int)
        if mp_world_size is not None and not 1 <= mp_world_size <= MAX_WORLD_SIZE:
            raise DamagedFile("'mp_world_size' is impossible", expected=f"1 to {MAX_WORLD_SIZE}", found=mp_world_size)
        saved = content.get("module")
        module = {} if saved is None else fields.tensors(saved, "module")
        frozen = content.get("frozen_param_shapes")
        listed_buffers = content.get("buffer_names")
        layers = content.get("ds_autoep_layers") or ()
        if not isinstance(layers, (list, tuple)) or not all(isinstance(layer, Mapping) for layer in layers):
            raise DamagedFile("'ds_autoep_layers' is not a list of layers")
        return ModelFile(
            rank=raw.name.dp_rank,
            mp_rank=raw.name.mp_rank,
            file=raw.path,
            container=raw.container,
            module=module,
            buffer_names=fields.names(listed_buffers, "buffer_names") if listed_buffers is not None else None,
            param_shapes=fields.shape_groups(content.get("param_shapes"), "param_shapes"),
            frozen_shapes=None if frozen is None else fields.shapes(frozen, "frozen_param_shapes"),
            frozen_fragments=fields.tensors(content.get("frozen_param_fragments") or {}, "frozen_param_fragments"),
            shared_params=_shared(content.get("shared_params") or {}),
            skipped=tuple(name for name in fields.names(saved or (), "module") if name not in module),
            optimizer=fields.optional(content, "optimizer", dict),
            step=fields.optional(content, "global_steps", int),
            skipped_steps=fields.enum_int(content.get("skipped_steps")) or 0,
            world_size=world_size,
            mp_world_size=mp_world_size,
            parallel=fields.field(content, "checkpoint_parallel_dimensions", dict, {}),
            universal=fields.field(content, "universal_checkpoint_info", dict, {}),
            autoep_layers=tuple(layers),
            ds_version=fields.optional(content, "ds_version", str),
            ds_config=fields.config(content),
        )


def _shared(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise DamagedFile("'shared_params' is not a mapping of names to names")
    return {fields.name_of(alias): fields.name_of(name) for alias, name in value.items()}
