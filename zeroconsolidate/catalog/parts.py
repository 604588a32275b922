"""Typed contents of all files -> the catalog: the parts of the model, how they join, what each name is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..archive.names import FileKind, file_name
from ..errors import MissingFiles, UnsupportedLayout, at
from .experts import is_native, of_rank, router_aliases, stacked_copies, unstacked
from .facts import Catalog, Cut, Frozen, MaybeTie, Part, Unnamed
from .frozen import striped_frozen
from .groups import flat_groups
from .joining import doubts_of, joins_of
from .names import ModuleNames, sort_names
from .noted import in_words, merged
from .origin import origin_of, unplaced_of
from .pipeline import known_layers, staged
from .plain import with_module_names
from .state import MasterState, master_state
from .training import of_all
from .universal import all_there, shaped

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..archive.located import LocatedTensor
    from .contents import Contents
    from .model_file import ModelFile
    from .whole_optimizer import WholeOptimizer


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slice:
    """What one tensor-parallel rank's files say."""

    parts: tuple[Part, ...]
    names: ModuleNames
    unnamed: tuple[Unnamed, ...]
    maybe_ties: tuple[MaybeTie, ...]
    tied: Mapping[str, str]


def assemble(contents: Contents) -> Catalog:
    """The catalog of a checkpoint. Raises Disagreement, MissingFiles or UnsupportedLayout."""
    if contents.grid.tp > 1 and contents.stacks:
        raise UnsupportedLayout("experts are stacked (AutoEP) and tensors are split (tensor parallelism) at once")
    contents = with_module_names(contents)
    slices = [_slice(contents, tp) for tp in range(contents.grid.tp)]
    parts = tuple(part for one in slices for part in one.parts)
    names = slices[0].names
    order = dict.fromkeys(name for one in slices for name in one.names.order)
    tied = slices[0].tied
    ties = {**names.ties, **tied}
    joins = dict(contents.stacks) if contents.universal is None else {}
    if contents.grid.tp > 1:
        joins |= joins_of(contents, parts, tied)
    stacked = stacked_copies(contents.stacks, contents.experts.get(0, {}))
    paths = [model.file for models in contents.models.values() for model in models]
    paths += [optimizer.file for optimizer in contents.all_optimizers]
    paths += [whole.file for whole in contents.all_wholes]
    paths += [swap.path for swap in contents.files.swaps]
    paths += contents.universal.paths if contents.universal else ()
    paths += [path for layers in contents.layers.values() for path in layers.files]
    noted = in_words(merged(one.names.noted for one in slices))
    return Catalog(
        origin=origin_of(contents, parts),
        files=tuple(dict.fromkeys([*paths, *contents.expert_paths])),
        looks=contents.files.looks,
        parts=parts,
        joins=joins,
        stacked=stacked,
        unnamed=tuple(question for one in slices for question in one.unnamed),
        doubts=doubts_of(contents, joins),
        maybe_ties=tuple(maybe for one in slices for maybe in one.maybe_ties),
        ties=ties,
        unsaved_ties=names.unsaved_ties,
        order=(*order, *(alias for alias in tied if alias not in order)),
        unplaced=unplaced_of(contents),
        missing=contents.missing,
        notes=(*noted, *_notes(contents)),
        training=of_all(
            [ranks[0].training for held in (contents.optimizers, contents.wholes) for ranks in held.values() if ranks]
        ),
        listed={**contents.listed, **{name: alias for alias, name in tied.items()}},
        noted=noted,
        unsaved={name: why for one in slices for name, why in one.names.unsaved.items()},
    )


def _is_ahead(contents: Contents) -> bool:
    """ZenFlow updates the most important columns in 16 bits at once and the masters later: no witness for them."""
    zero = contents.first.ds_config.get("zero_optimization")
    return isinstance(zero, dict) and bool(zero.get("zenflow"))


def _notes(contents: Contents) -> list[str]:
    notes = []
    if contents.universal and contents.grid.pp > 1 and not contents.layers:
        notes.append(
            "a pipeline's universal checkpoint has no layer files: its buffers and ties between layers are lost"
        )
    if _is_ahead(contents):
        notes.append(
            "ZenFlow updates 16-bit weights before their masters: the masters are written, and not compared with them"
        )
    if contents.sharers < contents.world_size:
        notes.append(
            f"MiCS: of {contents.world_size} ranks, the {contents.sharers} of the first shard group saved the model"
        )
    if contents.all_wholes and not any(whole.groups for whole in contents.all_wholes):
        notes.append("stage 0 without master weights: the values of the module are written")
    return [*notes, *_steps_apart(contents)]


def _steps_apart(contents: Contents) -> list[str]:
    """At stage 3 nothing but step counters links model files and optimizer files of one save, and they may differ
    rightly: before DeepSpeed 0.14 the optimizer's is one ahead, who resumes without the optimizer's state begins it
    anew, and the fused Adam of old releases counted once a sub-group. So it is a note, and no error."""
    first = contents.first
    counted = max((step for o in contents.all_optimizers if o.cut is Cut.STRIPED for step in o.steps), default=None)
    if counted is None or first.step is None or _is_ahead(contents):
        return []
    done = first.step - first.skipped_steps
    if abs(counted - done) <= 1:
        return []
    return [
        f"the optimizer files count {counted:g} steps, the model files {done}: so it is if the run was resumed without "
        "its optimizer's state; if not, they are of different saves, and masters and buffers do not belong together"
    ]


def _slice(contents: Contents, tp: int) -> _Slice:
    stages = [mp for mp in range(contents.grid.size) if contents.grid.tensor_rank(mp) == tp]
    base = _base_of(contents, tp, stages)
    pipeline_tied: dict[str, str] = {}
    if contents.wholes and base.buffer_names is None:
        base = replace(base, buffer_names=())  # candidates for masters: every tensor that may be a parameter
    shapes = {name: tensor.shape for name, tensor in base.module.items()}
    by_stage = [
        flat_groups(
            contents.models[mp][0],
            contents.optimizers[mp],
            contents.sharers,
            shapes=shapes,
            stacked=contents.stacks,
            holder=f"pipeline stage {contents.grid.stage(mp)}" if contents.grid.pp > 1 else None,
        )
        if contents.optimizers[mp]
        else []
        for mp in stages
    ]
    if contents.layers:
        by_stage, pipeline_tied = staged(by_stage, base.module, contents.first.universal)
    found = [group for groups in by_stage for group in groups]
    merged = _merged(contents, base)
    if contents.layers and merged:
        pipeline_tied = known_layers(merged, base.module, is_whole=contents.grid.tp == 1)
        merged = {pipeline_tied.get(name, name): tensor for name, tensor in merged.items()}
    placeholders = any(FileKind.PARTITIONED_MODEL in contents.files.files for _ in merged)
    striped = placeholders or any(group.cut is Cut.STRIPED for _, group in found)
    trainable = {member.name: member.shape for _, group in found for member in group.members}
    trainable |= {name: tensor.shape for name, tensor in merged.items()}
    named = sort_names(
        replace(base, param_shapes=(trainable,)),
        set(trainable),
        whole=not striped,
        apart=frozenset(contents.stacks),
        merged=bool(merged) and contents.grid.tp > 1,
    )
    frozen: dict[str, Frozen] = dict(named.frozen)
    if striped:
        frozen |= striped_frozen(list(contents.models[stages[0]]), contents.sharers)
        frozen = {name: held for name, held in frozen.items() if name not in named.unsaved}
    masters: tuple[Mapping[str, LocatedTensor], ...] = (merged,) if merged and tp == 0 else ()
    master_states: tuple[Mapping[str, MasterState], ...] = ({},) * len(masters)
    unnamed: tuple[Unnamed, ...] = ()
    module = {} if striped or _is_ahead(contents) else dict(named.witness)
    if contents.wholes:
        wholes = [whole for mp in stages for whole in contents.wholes[mp]]
        if any(whole.groups for whole in wholes):
            unnamed = tuple(
                _unnamed(whole, e, len(contents.wholes[stages[0]]), tp, named) for whole, e in _ranked(contents, stages)
            )
            module = {name: tensor for name, tensor in base.module.items() if name not in named.buffers}
        else:
            masters, master_states, frozen = _trained_as_they_are(wholes, dict(named.frozen))
    count = 1 + max((index for index, _ in found), default=0)
    parts = [
        Part(
            index=tp + index,
            groups=tuple(group for at_index, group in found if at_index == index),
            masters=masters if index == 0 else (),
            master_states=master_states if index == 0 else (),
            frozen=frozen if index == 0 else {},
            buffers=named.buffers if index == 0 else {},
            module=module if index == 0 else {},
        )
        for index in range(count)
    ]
    unlisted = named.buffers.keys() | set(named.not_optimized)
    maybe_ties = tuple(
        MaybeTie(part=tp, name=name, copy=base.module[name], unlisted=name in unlisted)
        for name in named.maybe_ties
        # Without experts tied names share a storage, and what has one of its own is a tensor of its own.
        if contents.expert_paths or name in unlisted
    )
    return _Slice(parts=tuple(parts), names=named, unnamed=unnamed, maybe_ties=maybe_ties, tied=pipeline_tied)


def _trained_as_they_are(
    wholes: Sequence[WholeOptimizer], tensors: Mapping[str, LocatedTensor]
) -> tuple[tuple[Mapping[str, LocatedTensor]], tuple[Mapping[str, MasterState]], dict[str, Frozen]]:
    """The parameters of a module without masters, what the optimizer keeps of them, and frozen ones: all are taken for
    trained where the optimizer has no names."""
    named = {name: kept for whole in wholes for name, kept in whole.named.items()}
    # Expert-parallel ranks each call their first expert 0.
    is_shared = len(named) < sum(len(whole.named) for whole in wholes)
    if not named or is_shared or not named.keys() <= tensors.keys():
        return (tensors,), ({},), {}
    states = {name: master_state(state, tensors[name], group) for name, (state, group) in named.items()}
    masters = {name: tensor for name, tensor in tensors.items() if name in named}
    return (masters,), (states,), {name: tensor for name, tensor in tensors.items() if name not in named}


def _merged(contents: Contents, base: ModelFile) -> dict[str, LocatedTensor]:
    """The trained parameters of a universal checkpoint. What the model file holds as it is, is left to it."""
    if contents.universal is None:
        return {}
    files = [models[0] for models in contents.models.values()]
    all_there(contents.universal, [name for file in files for name in file.shapes])
    frozen = {name for file in files for name in file.frozen_shapes or ()}
    own = {*(base.buffer_names or ()), *base.shared_params, *frozen}
    shapes = {name: shape for file in files for name, shape in file.shapes.items()}  # each stage lists its own
    # Model files of tensor-parallel ranks have the shapes of their parts, and what is joined is saved in its own.
    is_flat = FileKind.PARTITIONED_MODEL in contents.files.files and contents.grid.tp == 1
    found = {
        # Ours, and only ours, have parameters without dimensions in stages 1 and 2: as one element.
        name: shaped(
            name,
            tensor,
            shapes.get(name) if (is_flat and name not in contents.stacks) or not shapes.get(name, (1,)) else None,
        )
        for name, tensor in contents.universal.masters.items()
        if name not in own and (not shapes or name in shapes or name not in base.module)
    }
    return unstacked(found, {**{name: copy.shape for name, copy in base.module.items()}, **shapes})


def _ranked(contents: Contents, stages: list[int]) -> list[tuple[WholeOptimizer, int]]:
    return [(whole, e) for mp in stages for e, whole in enumerate(contents.wholes[mp])]


def _base_of(contents: Contents, tp: int, stages: list[int]) -> ModelFile:
    """The model file that speaks for a tensor-parallel rank: rank 0's, with what layer and expert files add."""
    first = contents.models[stages[0]][0]
    buffers = dict.fromkeys(name for mp in stages for name in contents.models[mp][0].buffer_names or ())
    module: dict[str, LocatedTensor] = {}
    for mp in stages:
        module |= contents.models[mp][0].module
        module |= {name: tensor for name, tensor in contents.experts[mp].items() if is_native(name)}
    if not module and not contents.layers and contents.universal is None:
        with at(file_name(first.file)):
            raise MissingFiles(
                "the model file has no 'module', as with pipeline parallelism, and there are no layer files",
                files=("layer_00-model_states.pt",),
            )
    if contents.layers:
        module |= contents.layers[tp].module
    return replace(
        first,
        module=module,
        buffer_names=tuple(buffers) if first.buffer_names is not None else None,
        shared_params={**router_aliases(first.autoep_layers, module), **contents.first.shared_params},
        skipped=tuple(dict.fromkeys(name for mp in stages for name in contents.models[mp][0].skipped)),
    )


def _unnamed(whole: WholeOptimizer, ep_rank: int, ep: int, tp: int, named: ModuleNames) -> Unnamed:
    """The question which of the module's parameters each master is."""
    dense = {name: tensor for name, tensor in named.frozen.items() if not is_native(name)}
    experts = {name: tensor for name, tensor in named.frozen.items() if is_native(name)}
    own = of_rank(experts, ep_rank, ep)
    of_experts = {name: tensor for name, tensor in experts.items() if name in own}
    by_group = [of_experts if is_expert else dense for is_expert in whole.expert_groups]
    if experts and not any(whole.expert_groups):
        by_group = [dense | of_experts] * len(whole.groups)
    return Unnamed(
        file=whole.file,
        part=tp,
        groups=whole.groups,
        states=whole.states,
        fused=whole.fused,
        candidates=tuple(by_group),
    )
