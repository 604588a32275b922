"""The layer files of a `PipelineModule` -> its layers, and which of them are tied.

`layer_LL-model_states.pt` is the state dict of layer LL without a prefix; the model calls its parameters `LL.name`
(mirrors `PipelineModule.save_state_dict` in `deepspeed/runtime/pipe/module.py`). A tied layer is saved once, under
the first index at which it is used, while the optimizer calls its parameters `tied_modules.KEY.name`, on every stage
that uses it. Which layer a key is, is written nowhere; it follows from names, shapes and the stage.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import DamagedFile, Disagreement, MissingFiles, UnsupportedLayout, at
from . import fields
from .tensor_parallel import spares

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from ..archive.located import LocatedTensor
    from ..archive.raw import RawFile
    from .facts import FlatGroup

_TIED = re.compile(r"tied_modules\.(?P<key>[^.]+)\.(?P<tail>.+)")
_INDEXED = re.compile(r"(?P<layer>[0-9]{1,7})\.(?P<tail>.+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """The layers of one tensor-parallel rank."""

    module: Mapping[str, LocatedTensor]
    """`LL.name` -> tensor, by layer."""
    files: tuple[str, ...]


def read_layers(raws: Iterable[RawFile]) -> dict[int, Layers]:
    """By tensor-parallel rank: all layers. Raises DamagedFile."""
    modules: dict[int, dict[str, LocatedTensor]] = {}
    files: dict[int, list[str]] = {}
    for raw in raws:
        with at(raw.name.name):
            for name, tensor in fields.tensors(raw.content, "the layer").items():
                full = f"{raw.name.layer}.{name}"
                if modules.setdefault(raw.name.mp_rank, {}).setdefault(full, tensor) is not tensor:
                    raise DamagedFile(f"{full} is in two layer files")
            files.setdefault(raw.name.mp_rank, []).append(raw.path)
    return {tp: Layers(module=module, files=tuple(files[tp])) for tp, module in sorted(modules.items())}


def staged(
    by_stage: Sequence[Sequence[tuple[int, FlatGroup]]],
    module: Mapping[str, LocatedTensor],
    universal: Mapping[str, Any],
) -> tuple[list[list[tuple[int, FlatGroup]]], dict[str, str]]:
    """The flat groups, stage by stage, with the names and shapes of the layers in `module`; and old names of tied
    layers with their new ones.

    Raises MissingFiles if a layer's file is not there, and what :func:`tied_names` raises.
    """
    held = [{member.name: member.numel for _, group in groups for member in group.members} for groups in by_stage]
    names = tied_names(held, module)
    spare = spares(universal, {name for stage in held for name in stage})
    found = [
        # The client says of some copies on later stages that the first stage's stand for them.
        [(index, _renamed(_marked(group, spare if stage else ()), names, module)) for index, group in groups]
        for stage, groups in enumerate(by_stage)
    ]
    for groups in found:
        for _, group in groups:
            for member in group.members:
                if member.name not in module:
                    raise _is_missing(member.name)
    return found, names


def _marked(group: FlatGroup, spare: Collection[str]) -> FlatGroup:
    members = tuple(replace(member, is_spare=member.name in spare) for member in group.members)
    return replace(group, members=members) if spare else group


def _renamed(group: FlatGroup, names: Mapping[str, str], module: Mapping[str, LocatedTensor]) -> FlatGroup:
    """A tied layer's parameters under the name of the layer's file, and with its shapes."""
    if not names.keys() & {member.name for member in group.members}:
        return group
    members = []
    for member in group.members:
        name = names.get(member.name)
        members.append(member if name is None else replace(member, name=name, shape=module[name].shape))
    return replace(group, members=tuple(members))


def _is_missing(name: str) -> MissingFiles:
    layer = name.partition(".")[0]
    file = f"layer_{int(layer):02d}-model_states.pt" if layer.isdecimal() else "layer_*-model_states.pt"
    return MissingFiles("the file of a layer is missing", expected=f"{name} in {file}", files=(file,))


def tied_names(stages: Sequence[Mapping[str, int | None]], module: Mapping[str, LocatedTensor]) -> dict[str, str]:
    """`tied_modules.KEY.name` -> `LL.name`. `stages`: by pipeline stage, the elements of each trained parameter, None
    where its layer may have fewer.

    Raises Disagreement if no layer fits, UnsupportedLayout if several do.
    """
    owned = {name for stage in stages for name in stage}
    keys: dict[str, dict[str, int | None]] = {}
    first_stage: dict[str, int] = {}
    for index, stage in enumerate(stages):
        for name, numel in stage.items():
            match = _TIED.fullmatch(name)
            if match:
                keys.setdefault(match["key"], {})[match["tail"]] = numel
                first_stage.setdefault(match["key"], index)
    names: dict[str, str] = {}
    for key, tails in keys.items():
        with at(f"tied_modules.{key}"):
            fitting = [
                layer
                for layer in _free_layers(module, owned)
                if all(_fits(module.get(f"{layer}.{tail}"), numel) for tail, numel in tails.items())
            ]
            fitting = _near(fitting, stages, first_stage[key])
            if len(fitting) != 1:
                shown = ", ".join(f"layer {layer}" for layer in fitting) or "none"
                kind = UnsupportedLayout if fitting else Disagreement
                raise kind(f"the tied layer must be one of the layers with files; expected one that fits, got {shown}")
            names |= {f"tied_modules.{key}.{tail}": f"{fitting[0]}.{tail}" for tail in tails}
    if len(set(names.values())) != len(names):
        raise UnsupportedLayout(
            "two tied layers could be the same layer", consequence="nothing in the files tells them apart"
        )
    return names


def known_layers(
    merged: Mapping[str, LocatedTensor], module: Mapping[str, LocatedTensor], *, is_whole: bool
) -> dict[str, str]:
    """The same for a universal checkpoint, which does not say on which stage they were. Where several layers fit,
    names are left as they are. `is_whole`: the module has whole tensors, not parts of tensor-parallel ranks."""
    try:
        return tied_names([{name: tensor.numel if is_whole else None for name, tensor in merged.items()}], module)
    except UnsupportedLayout:
        return {}


def _free_layers(module: Mapping[str, LocatedTensor], owned: set[str]) -> list[int]:
    """Layers none of whose parameters is trained under its own name."""
    layers: dict[int, bool] = {}
    for name in module:
        match = _INDEXED.fullmatch(name)
        if match:
            layer = int(match["layer"])
            layers[layer] = layers.get(layer, True) and name not in owned
    return [layer for layer, free in layers.items() if free]


def _fits(tensor: LocatedTensor | None, numel: int | None) -> bool:
    return tensor is not None and tensor.dtype.is_floating and numel in (None, tensor.numel)


def _near(layers: list[int], stages: Sequence[Mapping[str, int | None]], stage: int) -> list[int]:
    """Those that can belong to a stage: behind all known layers of earlier stages, before those of later ones."""
    known = [[int(m["layer"]) for name in names if (m := _INDEXED.fullmatch(name))] for names in stages]
    behind = max((layer for earlier in known[:stage] for layer in earlier), default=-1)
    before = min((layer for later in known[stage + 1 :] for layer in later), default=1 << 30)
    return [layer for layer in layers if behind < layer < before]
