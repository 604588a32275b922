"""Names without the wrappers that stand inside of them.

torch.compile, activation checkpointing and FSDP put a module into another one, whose attribute is then part of every
name below it, at any depth. No model calls a module of its own so. torch's `checkpoint_wrapper` takes it out of the
names of the state dict again (`torch/distributed/algorithms/_checkpoint/checkpoint_wrapper.py`), and out of those of
`named_parameters` it does not: DeepSpeed then saves one tensor under two names::

    module                    model.layers.0.mlp.up_proj.weight
    param_shapes, frozen, …   model.layers.0._checkpoint_wrapped_module.mlp.up_proj.weight
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .contents import Contents
    from .facts import Shape
    from .model_file import ModelFile
    from .optimizer_file import OptimizerFile

WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")
"""What they add to a name."""

V = TypeVar("V")


def plain(name: str) -> str:
    """The name without wrappers.

    >>> plain("_orig_mod.layers.0._checkpoint_wrapped_module.up_proj.weight")
    'layers.0.up_proj.weight'
    """
    for wrapper in WRAPPERS:
        while f".{wrapper}" in name or name.startswith(wrapper):
            name = name.replace(f".{wrapper}", ".").removeprefix(wrapper)
    return name


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """Every name without wrappers; all as they are if two would become one."""
    names = list(names)
    found = {name: plain(name) for name in names}
    return found if len(set(found.values())) == len(found) else {name: name for name in names}


def without_modules(names: Mapping[str, str], expected: Iterable[str]) -> dict[str, str] | None:
    """`names` (stored -> name so far) without `module.` inside, which holders like those of data parallelism leave
    around single layers. None if there is none, if two would become one, or if the target, whose names are `expected`,
    has modules of that name.
    """
    bare = {name: re.sub(r"\.(module\.)+", ".", new) for name, new in names.items()}
    if bare == names or len(set(bare.values())) < len(bare) or any(".module." in f".{name}" for name in expected):
        return None
    return bare


def with_module_names(contents: Contents) -> Contents:
    """The same content, with the module's names in place of other names that it lists for the same tensors."""
    module = {name for models in contents.models.values() for name in models[0].module}
    module |= {name for layers in contents.layers.values() for name in layers.module}
    listed = {name for models in contents.models.values() for name in _listed(models[0])}
    listed |= {name for ranks in contents.optimizers.values() for optimizer in ranks[:1] for name in _named(optimizer)}
    listed |= set(contents.universal.masters) if contents.universal is not None else set()
    own = {plain(name): name for name in module}
    if len(own) < len(module):
        return contents  # there the wrapper tells two tensors apart
    wrapped = {name: own.get(plain(name), name) for name in listed if name not in module}
    if all(name == new for name, new in own.items()):
        # What the save leaves out is listed as well: names of one checkpoint are of one kind.
        wrapped |= {name: plain(name) for name, new in wrapped.items() if name == new}
    wrapped = {name: new for name, new in wrapped.items() if name != new}
    if not wrapped or len({wrapped.get(name, name) for name in listed}) < len(listed):
        return contents
    shared: dict[int, tuple[Mapping[str, Shape], ...]] = {}
    return replace(
        contents,
        listed={new: name for name, new in wrapped.items()},
        models={
            mp: tuple(_model_renamed(model, wrapped, shared) for model in models)
            for mp, models in contents.models.items()
        },
        optimizers={
            mp: tuple(_optimizer_renamed(optimizer, wrapped) for optimizer in ranks)
            for mp, ranks in contents.optimizers.items()
        },
        universal=None
        if contents.universal is None
        else replace(contents.universal, masters=_renamed(contents.universal.masters, wrapped)),
    )


def _listed(model: ModelFile) -> set[str]:
    pairs = {*model.shared_params, *model.shared_params.values()}
    return pairs.union(model.shapes, model.frozen_shapes or (), model.frozen_fragments, model.buffer_names or ())


def _named(optimizer: OptimizerFile) -> set[str]:
    groups = [*(optimizer.slices or ()), *(optimizer.param_shapes or ())]
    return {name for group in groups for name in group}


def _renamed(of: Mapping[str, V], names: Mapping[str, str]) -> dict[str, V]:
    return {names.get(name, name): value for name, value in of.items()}


def _model_renamed(
    model: ModelFile, names: Mapping[str, str], shared: dict[int, tuple[Mapping[str, Shape], ...]]
) -> ModelFile:
    """`shared`: what all ranks have one copy of, they keep one copy of."""
    shapes = model.param_shapes
    if shapes is not None and id(shapes) not in shared:
        shared[id(shapes)] = tuple(_renamed(group, names) for group in shapes)
    return replace(
        model,
        param_shapes=None if shapes is None else shared[id(shapes)],
        frozen_shapes=None if model.frozen_shapes is None else _renamed(model.frozen_shapes, names),
        frozen_fragments=_renamed(model.frozen_fragments, names),
        shared_params={names.get(a, a): names.get(name, name) for a, name in model.shared_params.items()},
        buffer_names=None
        if model.buffer_names is None
        else tuple(names.get(name, name) for name in model.buffer_names),
    )


def _optimizer_renamed(optimizer: OptimizerFile, names: Mapping[str, str]) -> OptimizerFile:
    return replace(
        optimizer,
        slices=None if optimizer.slices is None else tuple(_renamed(group, names) for group in optimizer.slices),
        param_shapes=None
        if optimizer.param_shapes is None
        else tuple(_renamed(group, names) for group in optimizer.param_shapes),
    )
