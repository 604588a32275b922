"""Sorts the entries of a module's state dict into parameters, buffers and ties."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import DamagedFile, Disagreement, at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..archive.located import LocatedTensor
    from .model_file import ModelFile

MAX_TIE_CHAIN = 64
"""Aliases of aliases are followed so far; DeepSpeed writes none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleNames:
    """What each name of a module is."""

    order: tuple[str, ...]
    buffers: Mapping[str, LocatedTensor]
    frozen: Mapping[str, LocatedTensor]
    """Frozen parameters that are saved whole (stages 1 and 2)."""
    ties: Mapping[str, str]
    unsaved_ties: Mapping[str, str]
    witness: Mapping[str, LocatedTensor]
    notes: tuple[str, ...]


def sort_names(first: ModelFile, trainable: set[str], *, whole: bool) -> ModuleNames:
    """Tell the names of rank 0's module apart.

    `whole`: the module holds values (stages 1 and 2), not placeholders (stage 3). Then a frozen parameter is
    what is neither buffer, alias nor trainable: stage 1 does not list them (DeepSpeed's own converter therefore
    loses them), stage 2 does and keeps the same values in `module`.
    """
    module = first.module
    listed_frozen = set(first.frozen_shapes or ())
    buffers = {name: module[name] for name in first.buffer_names if name in module and name not in trainable}
    stored = trainable | listed_frozen
    notes: list[str] = [f"{name} is no tensor and is left out" for name in first.skipped]
    ties = _ties(first, stored, set(buffers), whole=whole, notes=notes)
    frozen: dict[str, LocatedTensor] = {}
    for name, tensor in module.items():
        if name in stored or name in ties or name in buffers:
            continue
        if name in first.shared_params:
            continue  # tied to something that was not saved: said in the notes
        if whole and tensor.dtype.is_floating and first.frozen_shapes is None:
            frozen[name] = tensor
        elif tensor.numel or whole:
            buffers[name] = tensor
            notes.append(f"{name} is listed neither as parameter nor as buffer; written unchanged, as a buffer")
        else:
            with at(first.file.rpartition("/")[2]), at(name):
                raise DamagedFile("the parameter is in the module but its values are nowhere")
    if whole:
        frozen |= _listed_frozen(first)
    order = dict.fromkeys([*(n for n in module if n in stored or n in ties or n in buffers or n in frozen)])
    order |= dict.fromkeys(name for name in first.frozen_shapes or ())
    order |= dict.fromkeys(name for shapes in first.param_shapes for name in shapes)
    witness = {name: tensor for name, tensor in module.items() if ties.get(name, name) in trainable}
    _witness_fits(first, witness, ties, whole=whole)
    return ModuleNames(
        order=tuple(order),
        buffers=buffers,
        frozen=frozen,
        ties=ties,
        unsaved_ties={alias: name for alias, name in first.shared_params.items() if not {alias, name} & set(order)},
        witness=witness,
        notes=tuple(notes),
    )


def _listed_frozen(first: ModelFile) -> dict[str, LocatedTensor]:
    found = {}
    for name, shape in (first.frozen_shapes or {}).items():
        tensor = first.frozen_fragments.get(name)
        if tensor is None or tensor.shape != shape:
            with at(first.file.rpartition("/")[2]), at(name):
                got = "nothing" if tensor is None else f"shape {tensor.shape}"
                raise DamagedFile(f"the frozen parameter does not fit; expected shape {shape}, got {got}")
        found[name] = tensor
    return found


def _ties(first: ModelFile, stored: set[str], buffers: set[str], *, whole: bool, notes: list[str]) -> dict[str, str]:
    """alias -> stored name, from `shared_params` and, where the module holds values, from shared storages.

    DeepSpeed 0.9.5 and older leave `shared_params` empty at stages 1 and 2; the module's tensors then still
    are the same view of the same storage. Empty placeholders prove nothing and are never compared.
    """
    ties: dict[str, str] = {}
    for alias, canonical in first.shared_params.items():
        target, seen = canonical, {alias}
        while (
            target in first.shared_params and target not in stored and target not in seen and len(seen) < MAX_TIE_CHAIN
        ):
            seen.add(target)
            target = first.shared_params[target]
        if alias in stored or alias in buffers:
            continue
        if target not in stored and target not in first.module:
            notes.append(f"{alias} is tied to {target}, which was not saved; left out")
        ties[alias] = target
    if whole:
        owners: dict[object, str] = {}
        for name, tensor in first.module.items():
            if tensor.numel and name in stored:
                owners[tensor.identity] = name
        for name, tensor in first.module.items():
            if not tensor.numel or name in stored or name in buffers or name in ties:
                continue
            owner = owners.setdefault(tensor.identity, name)
            if owner != name:
                ties[name] = owner
    known = stored | set(first.module)
    return {alias: target for alias, target in ties.items() if target in known}


def _witness_fits(
    first: ModelFile, witness: Mapping[str, LocatedTensor], ties: Mapping[str, str], *, whole: bool
) -> None:
    if not whole:
        return
    shapes = {name: shape for group in first.param_shapes for name, shape in group.items()}
    for name, tensor in witness.items():
        expected = shapes[ties.get(name, name)]
        if tensor.shape != expected:
            with at(first.file.rpartition("/")[2]), at(name):
                raise Disagreement(
                    f"'module' and 'param_shapes' do not describe the same model; expected shape {expected}, "
                    f"got {tensor.shape}"
                )
