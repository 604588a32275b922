"""Planned weights -> what the optimizer keeps of them, in files of their own, under the names of the output.

    optimizer/
      optimizer.safetensors    for each parameter its states: NAME.exp_avg, NAME.exp_avg_sq, …; in shards with an index
                               if it is larger than a shard
      optimizer.json           param groups with their settings and the names in them, and each parameter's step

The folder keeps them from loaders that take every safetensors file of a directory (vLLM, SGLang). Settings and steps
are in a file of their own because the metadata of a safetensors file holds text only, and each shard has its own.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..archive.located import LocatedTensor
from ..archive.model_files import OPTIMIZER_SETTINGS, OPTIMIZER_WEIGHTS
from ..archive.phrases import counted, listed
from ..errors import BadOption, Disagreement, UnsupportedLayout, at
from ..plan.congruent import congruent
from ..plan.layout import FilePlan, TensorPlan, index_of, split
from ..plan.pieces import View
from ..plan.states import MASTERS, every_state, param_groups, steps
from ..plan.substituted import leaves, substituted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ..catalog.facts import Catalog, Shape
    from ..naming.fit import Named
    from ..opening.opened import Opened
    from ..options import Options
    from ..plan.build import ModelPlan
    from ..plan.congruent import Sharing
    from ..plan.pieces import Recipe
    from ..plan.sources import Source

_FORMAT = 1
_WITHOUT = "convert without --optimizer"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedOptimizer:
    """The files of optimizer states."""

    files: tuple[FilePlan, ...]
    small: Mapping[str, bytes]
    """Settings, and the index of several shards, by name."""
    note: str
    cloned_bytes: int
    """Bytes that can share the blocks of input files."""


@dataclass(frozen=True, slots=True)
class _Parameter:
    """A tensor of the output that was trained."""

    name: str
    shape: Shape
    recipe: Recipe
    of: tuple[str, ...]
    """Stored names of the parameters it is made of."""


def refuse_with(options: Options) -> None:
    """Options that leave nothing that states could be written for. Raises BadOption."""
    if options.optimizer and options.lora == "merge":
        raise BadOption(
            "--optimizer cannot be used with --lora merge",
            consequence="the optimizer keeps its states of the adapters, and a merged model has none",
            remedy="--lora adapter",
        )


def with_optimizer(plan: ModelPlan, optimizer: PlannedOptimizer, sharing: Sharing | None) -> ModelPlan:
    """The plan of weights and of what the optimizer keeps of them. `sharing`: what the disk can share."""
    return replace(
        plan,
        optimizer=optimizer.files,
        sharing=sharing if optimizer.cloned_bytes else plan.sharing,
        cloned_bytes=plan.cloned_bytes + optimizer.cloned_bytes,
    )


def plan_optimizer(
    opened: Opened,
    plan: ModelPlan,
    named: Named,
    options: Options,
    *,
    every_name: bool,
    sharing: Sharing | None,
) -> PlannedOptimizer:
    """Plan the states of all parameters in a planned output: those of a tied weight under its first name, or under
    `every_name`. `named`: what was decided about names, with the tensors in small files beside the weights. `sharing`:
    what the disk can share.

    Raises UnsupportedLayout if not every state can be written, BadOption if the checkpoint is incomplete.
    """
    catalog = opened.catalog
    if opened.report is not None:
        raise BadOption("lost states of an optimizer cannot be rescued", remedy=_WITHOUT)
    by_state = every_state(catalog, remedy=_WITHOUT)
    masters = by_state.pop(MASTERS)
    parameters = list(_trained(plan, named, opened.stored, masters, every_name=every_name))
    tensors = []
    for parameter in parameters:
        for state, sources in by_state.items():
            having = [name for name in parameter.of if name in sources]
            if not having:
                continue
            with at(parameter.name):
                if len(having) < len(parameter.of):
                    raise Disagreement(
                        f"only a part of the tensor has the optimizer's state {state!r}",
                        expected=f"that of {listed(parameter.of)}",
                        found=listed(having),
                        remedy=_WITHOUT,
                    )
                places = {id(opened.stored[name].recipe): sources[name].recipe for name in parameter.of}
                recipe = substituted(parameter.recipe, places)
            tensors.append(
                TensorPlan(
                    name=f"{parameter.name}.{state}",
                    dtype=recipe.dtype,
                    shape=parameter.shape,
                    recipe=recipe,
                    is_parameter=False,
                )
            )
    shared = congruent(tensors, options.max_shard_bytes, sharing, name=OPTIMIZER_WEIGHTS) if sharing else None
    if shared is not None:
        files = list(shared.files)
    else:
        files = split(tensors, options.max_shard_bytes, name=OPTIMIZER_WEIGHTS) if tensors else []
    small = {OPTIMIZER_SETTINGS: _settings(catalog, parameters)}
    index = index_of([replace(file, name=os.path.basename(file.name)) for file in files]) if files else None
    if index is not None:
        small[f"{OPTIMIZER_WEIGHTS}.index.json"] = index
    held = listed(list(by_state)) if by_state else "no state of any element"
    return PlannedOptimizer(
        files=tuple(files),
        small=small,
        cloned_bytes=shared.shared_bytes if shared is not None else 0,
        note=(
            f"{os.path.dirname(OPTIMIZER_SETTINGS)}/: what the optimizer keeps of "
            f"{counted(len(parameters), 'parameter')} ({held}), as stored, with settings and steps"
        ),
    )


def _trained(
    plan: ModelPlan,
    named: Named,
    stored: Mapping[str, Source],
    masters: Mapping[str, Source],
    *,
    every_name: bool,
) -> Iterator[_Parameter]:
    """The tensors of the output that are trained parameters, or rearrange them; each once, under its first name."""
    known = {id(source.recipe): name for name, source in stored.items()}
    seen = set()
    for name, shape, recipe in _written(plan, named):
        rearranged = list(leaves(recipe, known))
        of = [known.get(id(leaf)) for leaf in rearranged]
        trained = tuple(dict.fromkeys(owner for owner in of if owner is not None and owner in masters))
        with at(name):
            if any(owner is None and not isinstance(leaf, View) for owner, leaf in zip(of, rearranged, strict=True)):
                raise UnsupportedLayout(
                    "the tensor is computed from others, so the optimizer has no state of it", remedy=_WITHOUT
                )
            if trained and any(owner not in masters for owner in of):
                raise UnsupportedLayout("a part of the tensor was not trained, and has no state", remedy=_WITHOUT)
        if trained and (every_name or id(recipe) not in seen):
            seen.add(id(recipe))
            yield _Parameter(name, shape, recipe, trained)


def _written(plan: ModelPlan, named: Named) -> list[tuple[str, Shape, Recipe]]:
    """What the output has, in the order of the module; names in folders begin with their folder's."""
    found = [
        (os.path.join(os.path.dirname(file.name), tensor.name), tensor.shape, tensor.recipe)
        for file in plan.files
        for tensor in file.tensors
    ]
    place = {name: index for index, name in enumerate(named.selection.named)}
    found.sort(key=lambda each: place.get(each[0], len(place)))
    return [*found, *((name, source.shape, source.recipe) for name, source in named.heads.items())]


def _settings(catalog: Catalog, parameters: Iterable[_Parameter]) -> bytes:
    """The text of the settings. Raises Disagreement for a tensor made of parameters that were trained differently."""
    group_of, step_of = param_groups(catalog), steps(catalog)
    training = catalog.training
    settings = training.param_groups if training is not None else ()
    groups: list[dict[str, object]] = [{**group, "params": []} for group in settings]
    members: list[list[str]] = [[] for _ in settings]
    counted_to: dict[str, float] = {}
    order = {name: place for place, name in enumerate(catalog.order)}
    for parameter in sorted(parameters, key=lambda each: order.get(each.of[0], len(order))):
        with at(parameter.name):
            found = {(group_of.get(name), _number(step_of[name])) for name in parameter.of}
            if len(found) > 1:
                raise Disagreement(
                    "the tensor is made of parameters of several param groups or steps",
                    found=listed(parameter.of),
                    remedy=_WITHOUT,
                )
        group, step = found.pop()
        if group is not None:
            members[group].append(parameter.name)
        if step is not None:
            counted_to[parameter.name] = step
    content = {
        "optimizer_file": _FORMAT,
        "optimizer": catalog.origin.optimizer,
        "param_groups": [{**group, "params": names} for group, names in zip(groups, members, strict=True)],
        "steps": counted_to,
    }
    return (json.dumps(content, indent=2) + "\n").encode()


def _number(step: object) -> float | None:
    value = step.item if isinstance(step, LocatedTensor) else step
    return value if isinstance(value, (int, float)) else None
