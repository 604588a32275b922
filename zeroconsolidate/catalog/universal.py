"""The folder of a universal checkpoint (`ds_to_universal`) -> its parameters, which are merged over all ranks.

Stages 0 to 2 save `{param: tensor in full shape, cat_dim: …}`, stage 3 the bare tensor, flat. What is not a trained
parameter (buffers, frozen parameters, ties) is only in the model files, which are those of the original
checkpoint. With `--inject_missing_state` the folder also has copies of them, cast to fp32: the originals are
better, and are used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..archive.located import LocatedTensor, contiguous
from ..archive.names import FileKind
from ..archive.phrases import listed
from ..errors import DamagedFile, Disagreement, MissingFiles, at
from . import fields
from .optimizer_file import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ..archive.raw import CheckpointFiles, RawFile
    from .facts import Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Universal:
    """What the folder holds."""

    masters: Mapping[str, LocatedTensor]
    """By name, as saved: stage 3 flat."""
    paths: tuple[str, ...]
    stage: int | None
    param_groups: tuple[Mapping[str, object], ...]


def read_universal(
    files: CheckpointFiles, load: Callable[[CheckpointFiles, FileKind], Iterable[RawFile]]
) -> Universal | None:
    """The folder of a universal checkpoint, or None where there is none."""
    masters: dict[str, LocatedTensor] = {}
    paths = []
    for raw in load(files, FileKind.UNIVERSAL):
        with at(raw.name.name):
            name = fields.name_of(raw.name.name.split("/")[1])
            tensor = raw.content.get("param")
            if not isinstance(tensor, LocatedTensor):
                raise DamagedFile("the file has no usable 'param'", found=type(tensor).__name__)
            masters[name] = tensor
            paths.append(raw.path)
    if not masters:
        return None
    stage: int | None = None
    groups: list[Any] = []
    for raw in load(files, FileKind.UNIVERSAL_STATE):
        stage = fields.enum_int(raw.content.get("zero_stage"))
        listed = raw.content.get("param_groups")
        groups = listed if isinstance(listed, list) else []
        paths.append(raw.path)
    return Universal(
        masters=masters, paths=tuple(paths), stage=stage, param_groups=tuple(settings(group) for group in groups)
    )


def all_there(universal: Universal, names: Iterable[str]) -> None:
    """Every trained parameter has a folder: else its 16-bit copy in the model file would be taken for a frozen
    parameter's. Raises MissingFiles."""
    missing = tuple(f"zero/{name}/fp32.pt" for name in names if name not in universal.masters)
    if missing:
        raise MissingFiles(
            "the universal checkpoint lacks trained parameters", consequence=f"missing {listed(missing)}", files=missing
        )


def shaped(name: str, tensor: LocatedTensor, shape: Shape | None) -> LocatedTensor:
    """The tensor in the parameter's shape. Raises Disagreement if it has another number of elements."""
    if shape is None or tensor.shape == shape:
        return tensor
    numel = math.prod(shape)
    if numel != tensor.numel or not tensor.is_contiguous:
        with at(name):
            raise Disagreement(f"the parameter has {tensor.numel} elements", expected=f"{numel}, its shape is {shape}")
    return contiguous(tensor.storage, shape, tensor.offset)
