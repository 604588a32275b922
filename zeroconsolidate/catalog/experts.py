"""Names and files of expert-parallel ranks -> names in the whole model, and which rank has which expert.

Expert-parallel rank e is data-parallel rank r with r mod ep == e (`deepspeed/utils/groups.py`). A group of experts is
partitioned over the ranks of one e only; there are ep such groups, and `partition_count` tells: ranks / ep.

* Native MoE numbers experts from 0 on each rank: local expert i of rank e is expert `e * local experts + i` of the
  model (`deepspeed/moe/layer.py`; the expert files have the global number in their names and in their keys).
* AutoEP stacks a rank's experts into one tensor `[local experts, …]`; the whole is the stack of all ranks
  (`deepspeed/module_inject/auto_ep`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..archive.located import contiguous
from ..errors import DamagedFile, Disagreement, UnsupportedLayout, at
from . import fields
from .rules import Affine, Concatenated, Join
from .tensor_parallel import affine_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from ..archive.located import LocatedTensor
    from ..archive.raw import RawFile
    from .facts import Shape

_NATIVE = re.compile(r"(?P<layer>.*deepspeed_moe\.experts\.deepspeed_experts\.)(?P<expert>[0-9]{1,7})(?P<rest>\..*)")


def is_native(name: str) -> bool:
    """Whether the parameter belongs to an expert of `deepspeed.moe`."""
    return _NATIVE.fullmatch(name) is not None


def global_names(names: Sequence[str], ep_rank: int) -> dict[str, str]:
    """Local name -> name in the model, for the parameters of one expert-parallel rank.

    >>> global_names(["m.deepspeed_moe.experts.deepspeed_experts.0.w"], 3)
    {'m.deepspeed_moe.experts.deepspeed_experts.0.w': 'm.deepspeed_moe.experts.deepspeed_experts.3.w'}
    """
    matches = {name: match for name in names if (match := _NATIVE.fullmatch(name))}
    local: dict[str, set[int]] = {}
    for match in matches.values():
        local.setdefault(match["layer"], set()).add(int(match["expert"]))
    for layer, experts in local.items():
        if experts != set(range(len(experts))):
            raise Disagreement(f"the experts of {layer.rstrip('.')} are not numbered from 0", found=sorted(experts))
    return {
        name: f"{match['layer']}{ep_rank * len(local[match['layer']]) + int(match['expert'])}{match['rest']}"
        for name, match in matches.items()
    }


def of_rank(names: Iterable[str], ep_rank: int, ep: int) -> set[str]:
    """Those of the experts' names that belong to one of `ep` expert-parallel ranks."""
    matches = {name: match for name in names if (match := _NATIVE.fullmatch(name))}
    layers: dict[str, int] = {}
    for match in matches.values():
        layers[match["layer"]] = max(layers.get(match["layer"], 0), int(match["expert"]) + 1)
    for layer, count in layers.items():
        if count % ep:
            raise Disagreement(f"{count} experts of {layer.rstrip('.')} do not divide into {ep} expert ranks")
    return {name for name, m in matches.items() if int(m["expert"]) // (layers[m["layer"]] // ep) == ep_rank}


def local_names(holders: Iterable[Iterable[str]]) -> dict[str, tuple[str, ...]]:
    """What an expert-parallel rank calls its experts -> which experts these are, by rank. `holders`: the names in the
    model that each has, in the order of ranks.

    >>> experts = "m.deepspeed_moe.experts.deepspeed_experts."
    >>> local_names([[f"{experts}0.w", f"{experts}1.w"], [f"{experts}2.w", f"{experts}3.w"]])[f"{experts}1.w"]
    ('m.deepspeed_moe.experts.deepspeed_experts.1.w', 'm.deepspeed_moe.experts.deepspeed_experts.3.w')
    """
    ranks: dict[tuple[str, str], list[list[int]]] = {}
    for names in holders:
        held: dict[tuple[str, str], list[int]] = {}
        for match in filter(None, map(_NATIVE.fullmatch, names)):
            held.setdefault((match["layer"], match["rest"]), []).append(int(match["expert"]))
        for parameter, experts in held.items():
            ranks.setdefault(parameter, []).append(sorted(experts))
    found = {}
    for (layer, rest), by_rank in ranks.items():
        count = len(by_rank[0])
        if by_rank != [list(range(rank * count, (rank + 1) * count)) for rank in range(len(by_rank))]:
            raise Disagreement(f"the experts of {layer.rstrip('.')} are not spread evenly over ranks", found=by_rank)
        for local in range(count):
            found[f"{layer}{local}{rest}"] = tuple(f"{layer}{experts[local]}{rest}" for experts in by_rank)
    return found


def unstacked(tensors: Mapping[str, LocatedTensor], shapes: Mapping[str, Shape]) -> dict[str, LocatedTensor]:
    """The tensors of a universal checkpoint with every expert under its name in the model. There, what expert-parallel
    ranks call by one name is stacked, so it has more rows than the shape says.

    Raises Disagreement where it has not a whole number of times as many.
    """
    counts: dict[tuple[str, str], int] = {}
    matches = {name: match for name in tensors if (match := _NATIVE.fullmatch(name))}
    for match in matches.values():
        counts[match["layer"], match["rest"]] = counts.get((match["layer"], match["rest"]), 0) + 1
    found = {}
    for name, tensor in tensors.items():
        shape = shapes.get(name, tensor.shape)
        if name not in matches or tensor.shape == (shape or (1,)):
            found[name] = tensor
            continue
        numel = math.prod(shape)
        ranks = tensor.numel // max(numel, 1)
        if ranks * numel != tensor.numel or not tensor.is_contiguous or not ranks:
            with at(name):
                raise Disagreement(
                    "the experts of all ranks do not divide", expected=f"a multiple of {shape}", found=tensor.shape
                )
        match = matches[name]
        count = counts[match["layer"], match["rest"]]
        for rank in range(ranks):
            expert = f"{match['layer']}{rank * count + int(match['expert'])}{match['rest']}"
            found[expert] = contiguous(tensor.storage, shape, tensor.offset + rank * numel)
    return found


def expert_files(raws: Iterable[RawFile]) -> dict[str, LocatedTensor]:
    """The tensors of all expert files by their global names, sorted by layer, expert and place in the file."""
    found: dict[str, LocatedTensor] = {}
    for raw in raws:
        with at(raw.name.name):
            for name, tensor in fields.tensors(raw.content, "the file").items():
                if name in found:
                    raise Disagreement(f"{name} is in two expert files")
                found[name] = tensor
    return found


def stacks(layers: Sequence[Mapping[str, Any]]) -> dict[str, Join]:
    """The stacked tensors of AutoEP's layers, and how ranks' stacks make the whole.

    The recorded map is used where there is one; else ranks are stacked in order, if `expert_placement` says so.
    """
    joins: dict[str, Join] = {}
    for layer in layers:
        prefix = fields.field(layer, "expert_key_prefix", str)
        with at(prefix):
            maps = fields.field(layer, "affine_maps", dict, {}).get("params")
            ep = fields.field(layer, "ep_size", int)
            names = list(maps) if isinstance(maps, Mapping) and maps else [f"{prefix}.w{i}" for i in (1, 2, 3)]
            for name in map(str, names):
                mapped = affine_of(maps[name], ep) if isinstance(maps, Mapping) and name in maps else None
                rule: Affine | Concatenated = mapped or Concatenated(0)
                joins[name] = Join(rule=rule, stacks_experts=True)
            if not maps:
                _check_placement(layer, ep)
    return joins


def router_aliases(layers: Sequence[Mapping[str, Any]], names: Collection[str]) -> dict[str, str]:
    """Second names of AutoEP's routers, which are recorded nowhere: the layer keeps its router under the name of the
    gate it replaced as well (`setattr(self, alias_target, self.router)` in
    `deepspeed/module_inject/auto_ep_layer.py`)."""
    aliases = {}
    for layer in layers:
        path = fields.field(layer, "module_path", str) + "."
        for name in names:
            child, _, rest = name.removeprefix(path).partition(".")
            own = f"{path}router.{rest}"
            if name.startswith(path) and child not in ("router", "experts") and own in names:
                aliases[name] = own
    return aliases


def _check_placement(layer: Mapping[str, Any], ep: int) -> None:
    placement = layer.get("expert_placement")
    ranks = placement.get("ranks") if isinstance(placement, Mapping) else None
    if ranks is None:
        return
    experts: list[int] = []
    for rank in ranks if isinstance(ranks, (list, tuple)) else ():
        if not isinstance(rank, Mapping) or not isinstance(rank.get("experts"), (list, tuple)):
            raise DamagedFile("'expert_placement' is not a list of ranks with their experts")
        experts += rank["experts"]
    if experts != list(range(len(experts))) or len(ranks) != ep:
        raise UnsupportedLayout(f"experts are not placed on the {ep} ranks in order, and no map says where they are")


def stacked_copies(
    joins: Mapping[str, Join], files: Mapping[str, LocatedTensor]
) -> dict[str, tuple[LocatedTensor, ...]]:
    """By stacked tensor: the copies of its experts in AutoEP's expert files, `<name>.<expert>`."""
    found: dict[str, dict[int, LocatedTensor]] = {}
    for key, tensor in files.items():
        name, _, expert = key.rpartition(".")
        if name in joins and expert.isdecimal():
            found.setdefault(name, {})[int(expert)] = tensor
    copies = {}
    for name, by_expert in found.items():
        if sorted(by_expert) != list(range(len(by_expert))):
            raise Disagreement(f"the expert files of {name} are incomplete", found=f"the experts {sorted(by_expert)}")
        copies[name] = tuple(by_expert[expert] for expert in range(len(by_expert)))
    return copies
