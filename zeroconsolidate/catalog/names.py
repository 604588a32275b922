"""A module's state dict -> which entries are parameters, buffers and ties."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..archive.names import file_name
from ..errors import DamagedFile, Disagreement, at
from .facts import Unsaved
from .noted import LEFT_TIED, NO_TENSOR, NOT_LISTED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..archive.located import LocatedTensor
    from .model_file import ModelFile
    from .noted import Noted

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
    maybe_ties: tuple[str, ...]
    """Floating-point tensors that nothing lists: frozen, or second names that were given storages of their own."""
    not_optimized: tuple[str, ...]
    """Those of `frozen` that are listed as no frozen parameters: they were trainable, and the optimizer has none."""
    unsaved: Mapping[str, Unsaved]
    noted: Noted


def sort_names(
    first: ModelFile, trainable: set[str], *, whole: bool, apart: frozenset[str] = frozenset(), merged: bool = False
) -> ModuleNames:
    """Tell the names of rank 0's module apart.

    `whole`: the module holds values (stages 1 and 2), not placeholders (stage 3). Then a frozen parameter is
    what is neither buffer, alias nor trainable: stage 1 does not list them (DeepSpeed's own converter therefore
    loses them), stage 2 does and keeps the same values in `module`. `apart`: names whose values are not in the
    module, because expert files have them. `merged`: trainable tensors are whole and the module has a rank's part.
    """
    module = first.module
    listed_frozen = set(first.frozen_shapes or ())
    buffers = {name: module[name] for name in first.buffer_names or () if name in module and name not in trainable}
    stored = trainable | listed_frozen
    ties, lost = _ties(first, stored, set(buffers), whole=whole)
    frozen: dict[str, LocatedTensor] = {}
    maybe_ties: list[str] = []
    not_optimized: list[str] = []
    not_listed: list[str] = []
    unsaved = {} if whole else dict.fromkeys(_quantized(first), Unsaved.QUANTIZED)
    for name, tensor in module.items():
        if name in stored or name in ties or name in buffers or name in lost or name in apart:
            continue
        if whole and tensor.dtype.is_floating and first.buffer_names is not None and not _is_companion(name, module):
            frozen[name] = tensor
            maybe_ties.append(name)
            if first.frozen_shapes is not None:
                not_optimized.append(name)
        elif whole or (tensor.numel and not _is_placeholder(first, tensor)):
            buffers[name] = tensor
            (maybe_ties if whole and tensor.dtype.is_floating else not_listed).append(name)
        else:
            unsaved[name] = Unsaved.NOT_OPTIMIZED
    unsaved_ties = {alias: name for alias, name in ties.items() if name in unsaved}
    ties = {alias: name for alias, name in ties.items() if name not in unsaved}
    if whole:
        frozen |= _listed_frozen(first)
    order = dict.fromkeys([*(n for n in module if n in stored or n in ties or n in buffers or n in frozen)])
    order |= dict.fromkeys(name for name in first.frozen_shapes or ())
    order |= dict.fromkeys(first.shapes)
    order = {name: None for name in order if name not in unsaved}
    witness = {name: tensor for name, tensor in module.items() if ties.get(name, name) in trainable and not merged}
    _witness_fits(first, witness, ties, whole=whole)
    return ModuleNames(
        order=tuple(order),
        buffers=buffers,
        frozen=frozen,
        ties=ties,
        unsaved_ties={a: name for a, name in first.shared_params.items() if not order.keys() & {a, name}}
        | unsaved_ties,
        witness=witness,
        maybe_ties=tuple(maybe_ties),
        not_optimized=tuple(not_optimized),
        unsaved=unsaved,
        noted={NO_TENSOR: first.skipped, LEFT_TIED: tuple(lost), NOT_LISTED: tuple(not_listed)},
    )


def _is_companion(name: str, module: Mapping[str, LocatedTensor]) -> bool:
    """Whether this belongs to another tensor, whose name it continues (`q_proj.weight.absmax` of bitsandbytes): then it
    is not a parameter of its own."""
    return any(name[:dot] in module for dot in range(len(name)) if name[dot] == ".")


def _quantized(first: ModelFile) -> list[str]:
    """Frozen parameters of stage 3 that `zero_quantized_nontrainable_weights` made integers of: the placeholder keeps
    the dtype they had (`deepspeed/runtime/zero/partition_parameters.py`)."""
    zero = first.ds_config.get("zero_optimization")
    is_asked = isinstance(zero, dict) and bool(zero.get("zero_quantized_nontrainable_weights"))
    found = []
    for name, fragment in first.frozen_fragments.items():
        before = first.module.get(name)
        was_floating = before is not None and before.dtype.is_floating
        if fragment.dtype.kind == "integer" and (was_floating or (is_asked and fragment.dtype.itemsize == 1)):
            found.append(name)
    return found


def _is_placeholder(first: ModelFile, tensor: LocatedTensor) -> bool:
    """Whether this may be what stage 3 leaves of a parameter: before DeepSpeed 0.5 that is one element, not none."""
    if tensor.shape != (1,) or not tensor.dtype.is_floating:
        return False
    shapes = first.shapes
    return any(
        other.shape == (1,) and shapes.get(name, (1,)) != (1,) and first.module[name] is not tensor
        for name, other in first.module.items()
    )


def _listed_frozen(first: ModelFile) -> dict[str, LocatedTensor]:
    found = {}
    for name, shape in (first.frozen_shapes or {}).items():
        tensor = first.frozen_fragments.get(name)
        if tensor is None or tensor.shape != shape:
            with at(file_name(first.file)), at(name):
                got = "nothing" if tensor is None else f"shape {tensor.shape}"
                raise DamagedFile("the frozen parameter does not fit", expected=f"shape {shape}", found=got)
        found[name] = tensor
    return found


def _ties(
    first: ModelFile, stored: set[str], buffers: set[str], *, whole: bool
) -> tuple[dict[str, str], dict[str, str]]:
    """(alias -> stored name, alias -> name that was not saved), from `shared_params` and from shared storages.

    DeepSpeed 0.9.5 and older leave `shared_params` empty at stages 1 and 2, and 0.9.1 and older have none; the
    module's tensors then still are the same view of the same storage. Where the module holds values, DeepSpeed
    goes by address, and takes all parameters without elements for one: those ties mean nothing.
    """
    ties: dict[str, str] = {}
    lost: dict[str, str] = {}
    for alias, canonical in first.shared_params.items():
        target, seen = canonical, {alias}
        while (
            target in first.shared_params and target not in stored and target not in seen and len(seen) < MAX_TIE_CHAIN
        ):
            seen.add(target)
            target = first.shared_params[target]
        if alias in stored or alias in buffers or target == alias:
            continue
        if whole and alias in first.module and not first.module[alias].numel:
            continue
        (ties if target in stored or target in first.module else lost)[alias] = target
    ties |= _by_storage(first, stored, buffers.union(ties, lost))
    return {alias: target for alias, target in ties.items() if target not in ties}, lost


def _by_storage(first: ModelFile, stored: set[str], known: set[str]) -> dict[str, str]:
    """Names that are the same view of the same storage as a stored parameter.

    The placeholders of stage 3 are empty, but each parameter's is a storage of its own, which an alias shares. If
    two stored parameters share one, that does not hold here, and empty ones prove nothing.
    """
    owners: dict[object, str] = {}
    distinct = True
    for name, tensor in first.module.items():
        if name in stored:
            distinct &= owners.setdefault(tensor.identity, name) == name or bool(tensor.numel)
    ties = {}
    for name, tensor in first.module.items():
        if name in stored or name in known or not (tensor.numel or distinct):
            continue
        owner = owners.get(tensor.identity)
        if owner is None and tensor.numel:
            owner = owners.setdefault(tensor.identity, name)
        if owner is not None and owner != name:
            ties[name] = owner
    return ties


def _witness_fits(
    first: ModelFile, witness: Mapping[str, LocatedTensor], ties: Mapping[str, str], *, whole: bool
) -> None:
    if not whole:
        return
    shapes = first.shapes
    for name, tensor in witness.items():
        expected = shapes[ties.get(name, name)]
        if tensor.shape != expected:
            with at(file_name(first.file)), at(name):
                raise Disagreement(
                    "'module' and 'param_shapes' do not describe the same model",
                    expected=f"shape {expected}",
                    found=tensor.shape,
                )
