"""What a `*_model_states.pt` says (mirrors `DeepSpeedEngine.save_checkpoint` in `deepspeed/runtime/engine.py`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import DamagedFile, UnsupportedLayout, at
from . import fields

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..archive.located import LocatedTensor
    from ..archive.raw import RawFile
    from .facts import Shape

MAX_WORLD_SIZE = 1 << 17
"""More data-parallel ranks than this are refused: each is expected to have files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """One rank's model states, as far as they describe the model."""

    rank: int
    file: str
    module: Mapping[str, LocatedTensor]
    buffer_names: tuple[str, ...]
    param_shapes: tuple[Mapping[str, Shape], ...]
    """By flat group, in the order in which the group was flattened."""
    frozen_shapes: Mapping[str, Shape] | None
    """None where DeepSpeed did not record them (stage 1, and before 0.9.1)."""
    frozen_fragments: Mapping[str, LocatedTensor]
    shared_params: Mapping[str, str]
    """alias -> canonical. DeepSpeed fills it on global rank 0 only."""
    skipped: tuple[str, ...]
    """Entries of the module that are no tensors."""
    step: int | None
    world_size: int | None
    ds_version: str | None
    ds_config: Mapping[str, Any]


def read_model_file(raw: RawFile) -> ModelFile:
    """Check and type one model file. Raises DamagedFile, or UnsupportedLayout for model parallelism."""
    content = raw.content
    with at(raw.name.name):
        _refuse_model_parallel(content)
        module = fields.tensors(content.get("module"), "module")
        world_size = fields.optional(content, "dp_world_size", int)
        if world_size is not None and not 1 <= world_size <= MAX_WORLD_SIZE:
            raise DamagedFile(f"'dp_world_size' is impossible; expected 1 to {MAX_WORLD_SIZE}, got {world_size}")
        shapes = content.get("param_shapes")
        if shapes is None:
            raise UnsupportedLayout("the file has no 'param_shapes': it was not saved by a ZeRO stage 1, 2 or 3 run")
        # DeepSpeed 0.5.4 turned one mapping into a list of mappings, one a group.
        listed = shapes if isinstance(shapes, (list, tuple)) else [shapes]
        frozen = content.get("frozen_param_shapes")
        return ModelFile(
            rank=raw.name.dp_rank,
            file=raw.path,
            module=module,
            buffer_names=fields.names(content.get("buffer_names") or [], "buffer_names"),
            param_shapes=tuple(fields.shapes(group, "param_shapes") for group in listed),
            frozen_shapes=None if frozen is None else fields.shapes(frozen, "frozen_param_shapes"),
            frozen_fragments=fields.tensors(content.get("frozen_param_fragments") or {}, "frozen_param_fragments"),
            shared_params=_shared(content.get("shared_params") or {}),
            skipped=tuple(name for name in fields.names(content["module"], "module") if name not in module),
            step=fields.optional(content, "global_steps", int),
            world_size=world_size,
            ds_version=fields.optional(content, "ds_version", str),
            ds_config=fields.field(content, "ds_config", dict, {}),
        )


def _refuse_model_parallel(content: Mapping[str, Any]) -> None:
    degree = fields.field(content, "mp_world_size", int, 1)
    if degree != 1:
        raise UnsupportedLayout(f"the model is split over {degree} model-parallel ranks ('mp_world_size')")
    for key in ("universal_checkpoint_info", "ds_autoep_layers", "num_experts"):
        value = content.get(key)
        if value and key != "num_experts":
            raise UnsupportedLayout(f"the checkpoint has the layout key {key!r}, which is not read yet")


def _shared(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise DamagedFile("'shared_params' is not a mapping of names to names")
    return {fields.name_of(alias): fields.name_of(name) for alias, name in value.items()}
