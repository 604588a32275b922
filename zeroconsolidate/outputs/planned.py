"""A checkpoint and options -> planned weights: which tensors, adapters, names and files."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from ..adapters.find import find_adapters
from ..archive.model_config import has_config, is_diffusers, read_config
from ..archive.model_files import BESIDE_FOLDER, CONFIG, DIFFUSERS_WEIGHTS, WEIGHTS
from ..catalog.facts import Unsaved
from ..dtypes import DType
from ..errors import BadOption, StoreFailed, WrongNames, ZeroConsolidateError
from ..naming.fit import Named, fit
from ..opening.unsaved import NO_ADDITIONS, Additions, frozen_of_base, refuse_unsaved
from ..options import parse_dtype, refuse_unmatched
from ..plan.build import ModelPlan, Selection, build, padding_bytes, refuse_empty, select
from ..plan.layout import FilePlan
from ..plan.witness import witnesses
from .averaging import merged_mean, refuse_different_adapters
from .modules import apart
from .sharing import refuse_unshared, sharing_of
from .transforming import apply, refuse_on_adapters

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..adapters.adapted import Adapted
    from ..opening.opened import Opened
    from ..options import Options
    from ..plan.build import Source
    from ..plan.congruent import Sharing
    from ..transforms.transform import Model
    from .modules import Module
    from .optimizer import PlannedOptimizer


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedWeights:
    """The weights of an output, and what was decided for them."""

    plan: ModelPlan
    dtype: DType
    """What floating-point parameters are written as."""
    named: Named
    adapted: Adapted | None = None
    """Of a run with adapters that were merged or are written for PEFT: what goes with it."""
    additions: Additions = NO_ADDITIONS
    """Frozen parameters that the save left to the base model."""
    sharing: Sharing | None = None
    """What the disk can share, whether or not the weights make use of it."""
    optimizer: PlannedOptimizer | None = None
    """What the optimizer keeps of them, if that was asked for."""
    model: Model | None = None
    """As transformations have left it; None without any."""


def plan_weights(
    opened: Opened,
    options: Options,
    modules: tuple[Module, ...] = (),
    *,
    directory: str | None = None,
    every_name: bool = False,
) -> PlannedWeights:
    """Select, merge, name, lay out; with `options.optimizer` what the optimizer keeps of them as well. `modules`: those
    of a sentence-transformers model. `directory`: where the output will be; without it nothing is assumed about its
    disk. `every_name`: of a weight that is written under several names, under each of them.

    Raises what :func:`_weights` raises, and UnsupportedLayout if not every state of the optimizer can be written.
    """
    if options.optimizer:
        from .optimizer import plan_optimizer, refuse_with, with_optimizer

        refuse_with(options)
        weights = _weights(opened, options, modules, directory)
        planned = plan_optimizer(
            opened, weights.plan, weights.named, options, every_name=every_name, sharing=weights.sharing
        )
        plan = with_optimizer(weights.plan, planned, weights.sharing)
        weights = replace(weights, plan=plan, optimizer=planned)
    else:
        weights = _weights(opened, options, modules, directory)
    if directory is not None:
        refuse_unshared(weights.plan, options)
    return weights


def _weights(opened: Opened, options: Options, modules: tuple[Module, ...], directory: str | None) -> PlannedWeights:
    """Select, merge, name, lay out.

    Raises BadOption for options that contradict each other or leave nothing, WrongNames if a loader would not find
    its parameters, UnsupportedLayout or Disagreement for adapters that cannot be merged or do not fit.
    """
    catalog, dtype = opened.catalog, parse_dtype(options.dtype, opened.catalog.origin.training_dtype)
    adapters = find_adapters(catalog, lora=options.lora, chosen=options.adapters, base=options.base_directory)
    if adapters is not None:
        from . import adapted  # a run without adapters does not pay for it
    additions, peft, beside, lacking = NO_ADDITIONS, None, list[FilePlan](), None
    if adapters is None:
        additions = frozen_of_base(catalog, opened.stored, options.base_directory)
        lacking = _unsaved(catalog.unsaved, additions, options)
        if lacking is not None and options.base_directory is None:
            raise lacking
        selection = _selected(opened, additions, options)
    else:
        adapted.refuse_unusable(opened, adapters, options)
        if options.lora != "merge":
            refuse_on_adapters(options)
            refuse_different_adapters(opened, adapters, options)
            plan, named, peft = adapted.exported(opened, adapters, options, dtype)
            return PlannedWeights(plan=plan, dtype=dtype, named=named, adapted=peft)
        # What is quantized is quantized from float32; the rest is cast when it is written.
        merge_dtype = DType.F32 if options.quantize else dtype
        if opened.members:
            selection, peft, around = merged_mean(opened, options, merge_dtype, _wanted(options))
        else:
            selection, peft, around = adapted.merged(opened, adapters, options, merge_dtype, _wanted(options))
        beside = around.files(dtype, folder=BESIDE_FOLDER)
    folders: dict[str, dict[str, Source]] = {}
    if options.names != "stored" and options.rename is None and options.lora != "keep":
        selection, folders = apart(selection, modules)
    if peft is None:
        named = _fitted(opened, selection, options, additions, lacking)
    else:
        named = adapted.name_merged(opened, selection, peft, options)
    trained_as = peft.trained_as if peft is not None else None
    named, model = apply(
        named, opened, options, dtype, class_name=trained_as.class_name if trained_as is not None else ""
    )
    read_files = (*additions.files, *named.files, *(peft.files if peft else ()))
    sharing = sharing_of(directory, [*opened.files, *opened.filled_from, *read_files], options)
    plan = build(
        named.selection,
        dtype=dtype,
        max_shard_bytes=options.max_shard_bytes,
        padding_bytes=padding_bytes(catalog),
        folders=folders,
        name=_file_name(catalog.origin.root, options.base_directory),
        sharing=sharing,
        # A mean, and what was rescued, are not what any copy is the copy of.
        witnesses={} if sharing is None or opened.members else witnesses(catalog, opened.whole),
    )
    plan = replace(plan, files=(*plan.files, *beside))
    return PlannedWeights(
        plan=plan, dtype=dtype, named=named, adapted=peft, additions=additions, sharing=sharing, model=model
    )


def _file_name(root: str, base: str | None) -> str:
    """What the loader of the config.json that will lie beside the weights looks for."""
    directory = next((place for place in (root, base) if place is not None and has_config(place)), None)
    try:
        config = None if directory is None else read_config(os.path.join(directory, CONFIG))
    except StoreFailed:
        raise
    except (ZeroConsolidateError, OSError):
        config = None  # said when it is written
    return DIFFUSERS_WEIGHTS if is_diffusers(config) else WEIGHTS


def with_recorded_base(opened: Opened, options: Options) -> Options:
    """`options` with the base that the adapters name, if a merge needs one, none is given, and it is at hand."""
    if options.lora != "merge" or options.base is not None:
        return options
    adapters = find_adapters(opened.catalog, lora=options.lora, chosen=options.adapters)
    if adapters is None:
        return options
    from ..adapters.base import recorded_base

    base = recorded_base(opened.catalog, adapters)
    return options if base is None else replace(options, base=base)


def _is_wanted(name: str, role: str, options: Options) -> bool:
    if options.exclude_frozen and role == "frozen":
        return False
    included = not options.include or any(fnmatchcase(name, glob) for glob in options.include)
    return included and not any(fnmatchcase(name, glob) for glob in options.exclude)


def _wanted(options: Options) -> Callable[[str, Source], bool]:
    return lambda name, source: _is_wanted(name, source.role, options)


def _selected(opened: Opened, additions: Additions, options: Options) -> Selection:
    """The checkpoint's tensors, and the base model's in the place of those that the save left out."""
    wanted = _wanted(options)
    refuse_unmatched(options.include, [*opened.catalog.order, *additions.sources])
    chosen = select(opened.catalog, opened.stored, copy_ties=options.ties == "copy", wanted=wanted)
    selection = Selection(named={**chosen.named, **additions.sources}, left_out=chosen.left_out).only(wanted)
    refuse_empty(selection)  # before anyone is asked for names
    return selection


def _fitted(
    opened: Opened, selection: Selection, options: Options, additions: Additions, lacking: BadOption | None
) -> Named:
    """The tensors under the names their loader expects. Raises WrongNames, and `lacking` unless the base supplied all
    that the class expects."""
    partial = options.partial or opened.report is not None
    try:
        named = fit(opened.catalog, selection, options, partial=partial, supplied=additions.sources)
    except WrongNames:
        if lacking is None:
            raise
        raise lacking from None
    if lacking is not None and not (named.complete and named.is_exact):
        raise lacking
    return named


def _unsaved(unsaved: Mapping[str, Unsaved], additions: Additions, options: Options) -> BadOption | None:
    """The error for parameters without values that are to be written, unless the base's files have them after all,
    under the names of the class: then the model is complete in the end."""
    if not unsaved or options.allow_missing:
        return None
    roles = {Unsaved.NOT_OPTIMIZED: "trainable", Unsaved.QUANTIZED: "frozen"}
    wanted = {name: why for name, why in unsaved.items() if _is_wanted(name, roles[why], options)}
    try:
        refuse_unsaved(wanted, additions.sources, options.base_directory, additions.warnings)
    except BadOption as error:
        return error
    return None
