"""A checkpoint and options -> planned weights: which tensors, adapters, names and files."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from ..adapters.base import recorded_base
from ..adapters.find import find_adapters, refuse_modules
from ..adapters.plan import plan_export, plan_merge
from ..adapters.task import task_of
from ..archive.model_config import has_config, is_diffusers, read_config
from ..archive.model_files import BESIDE_FOLDER, CONFIG, DIFFUSERS_WEIGHTS, WEIGHTS
from ..archive.phrases import counted, listed
from ..archive.weights import read_weights
from ..catalog.facts import Unsaved
from ..errors import BadOption, ZeroConsolidateError
from ..naming.base_layout import is_exactly
from ..naming.fit import Named, fit
from ..naming.sources import NameSources
from ..opening.substitutes import NO_ADDITIONS, Additions, frozen_of_base, refuse_unsaved
from ..options import parse_dtype, refuse_unmatched
from ..plan.build import ModelPlan, Selection, build, padding_bytes, refuse_empty, select
from ..plan.layout import FilePlan
from .modules import apart

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..adapters.find import Adapters
    from ..adapters.plan import Adapted, Merge
    from ..dtypes import DType
    from ..naming.hub_layout import Architecture
    from ..opening.opened import Opened
    from ..opening.rescue_report import RescueReport
    from ..options import Options
    from ..plan.build import Source
    from .modules import Module


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


def plan_weights(opened: Opened, options: Options, modules: tuple[Module, ...] = ()) -> PlannedWeights:
    """Select, merge, name, lay out. `modules`: those of a sentence-transformers model.

    Raises BadOption for options that go against each other or leave nothing, WrongNames if a loader would not find
    its parameters, UnsupportedLayout or Disagreement for adapters that cannot be merged or do not fit.
    """
    catalog, dtype = opened.catalog, parse_dtype(options.dtype, opened.catalog.origin.training_dtype)
    adapters = find_adapters(catalog, lora=options.lora, chosen=options.adapters, base=options.base_directory)
    if adapters is not None and opened.report is not None:
        _refuse_broken(adapters, opened.report)
    known = options.base_directory is not None or (options.lora == "merge" and has_config(catalog.origin.root))
    if adapters is not None and not known:
        refuse_modules(adapters.parts.values())
    if adapters is not None and catalog.unsaved:
        _refuse_unsaved_adapter(adapters, catalog.unsaved)
    if adapters is not None and options.lora != "merge":
        return _exported(opened, adapters, options, dtype)
    additions, adapted, beside = NO_ADDITIONS, None, list[FilePlan]()
    if adapters is None:
        additions = frozen_of_base(catalog, opened.stored, options.base_directory)
        if catalog.unsaved and not options.allow_missing:
            _refuse_unsaved(catalog.unsaved, additions, options)
        selection = _selected(opened, additions, options)
    else:
        if options.base_directory is None and not options.allow_missing:
            refuse_unsaved(catalog.unsaved, (), None)
        selection, adapted, beside = _merged(opened, adapters, options, dtype)
    folders: dict[str, dict[str, Source]] = {}
    if options.names != "stored" and options.rename is None and options.lora != "keep":
        selection, folders = apart(selection, modules)
    named = _named(opened, selection, adapted, options)
    plan = build(
        named.selection,
        dtype=dtype,
        max_shard_bytes=options.max_shard_bytes,
        padding_bytes=padding_bytes(catalog),
        folders=folders,
        name=_file_name(catalog.origin.root, options.base_directory),
    )
    plan = replace(plan, files=(*plan.files, *beside))
    return PlannedWeights(plan=plan, dtype=dtype, named=named, adapted=adapted, additions=additions)


def _file_name(root: str, base: str | None) -> str:
    """What the loader of the config.json that will lie beside the weights looks for."""
    directory = next((place for place in (root, base) if place is not None and has_config(place)), None)
    try:
        config = None if directory is None else read_config(os.path.join(directory, CONFIG))
    except (ZeroConsolidateError, OSError):
        config = None  # said when it is written
    return DIFFUSERS_WEIGHTS if is_diffusers(config) else WEIGHTS


def with_recorded_base(opened: Opened, options: Options) -> Options:
    """`options` with the base that the adapters name, if a merge needs one, none is given, and it is at hand."""
    if options.lora != "merge" or options.base is not None:
        return options
    adapters = find_adapters(opened.catalog, lora=options.lora, chosen=options.adapters)
    base = None if adapters is None else recorded_base(opened.catalog, adapters)
    return options if base is None else replace(options, base=base)


def _exported(opened: Opened, adapters: Adapters, options: Options, dtype: DType) -> PlannedWeights:
    """The adapters as PEFT would save them."""
    if options.include or options.exclude:
        raise BadOption(
            "--include and --exclude do not go with an adapter, which is written whole",
            remedy="add --lora keep or --lora merge",
        )
    plan, adapted, warnings = plan_export(
        opened.catalog, opened.stored, adapters, base=options.base_directory, dtype=dtype
    )
    named = Named(
        selection=Selection(named={}, left_out=plan.left_out),
        heads={},
        reason="names as PEFT saves them",
        change="as PEFT saves them",
        warnings=warnings,
        unwrapped=adapted.is_wrapped,
    )
    return PlannedWeights(plan=plan, dtype=dtype, named=named, adapted=adapted)


def _is_wanted(name: str, role: str, options: Options) -> bool:
    if options.exclude_frozen and role == "frozen":
        return False
    included = not options.include or any(fnmatchcase(name, glob) for glob in options.include)
    return included and not any(fnmatchcase(name, glob) for glob in options.exclude)


def _selected(opened: Opened, additions: Additions, options: Options) -> Selection:
    """The checkpoint's tensors, and the base model's in the place of those that the save left out."""

    def wanted(name: str, source: Source) -> bool:
        return _is_wanted(name, source.role, options)

    refuse_unmatched(options.include, [*opened.catalog.order, *additions.sources])
    chosen = select(opened.catalog, opened.stored, copy_ties=options.ties == "copy", wanted=wanted)
    selection = Selection(named={**chosen.named, **additions.sources}, left_out=chosen.left_out).only(wanted)
    refuse_empty(selection)  # before anyone is asked for names
    return selection


def _merged(
    opened: Opened, adapters: Adapters, options: Options, dtype: DType
) -> tuple[Selection, Adapted, list[FilePlan]]:
    """The model with its adapters merged into it, and the file of what was trained around it."""
    if options.exclude_frozen:
        raise BadOption(
            "--exclude-frozen does not go with a merged model, which needs its frozen weights",
            remedy="use --lora adapter or --lora keep",
        )
    base = options.base_directory
    task = task_of(adapters.configs.values())
    sources = NameSources(opened.catalog.origin.root, base, options.set_config, task=task, remember=options.cache)
    insisted = options.allow_missing or options.names == "stored" or options.rename is not None

    def merged(architecture: tuple[Architecture | None, str]) -> Merge:
        return plan_merge(
            opened.catalog,
            opened.stored,
            adapters,
            base=base,
            base_differs=options.base_differs,
            dtype=dtype,
            copy_ties=options.ties == "copy",
            architecture=architecture,
            insisted=insisted,
        )

    if base is None or options.names == "stored":
        # Only the base's files need their names told; without them the merged model is named like any.
        merge = merged((None, "names as in the checkpoint (--names stored)"))
    else:
        known, merge_of_table = None if insisted else _in_table(sources, base), None
        if known is not None:
            with suppress(ZeroConsolidateError):
                merge_of_table = merged((known, ""))
        merge = merge_of_table or merged((sources.architecture, sources.unasked))
    refuse_unmatched(options.include, merge.selection.named)
    selection = merge.selection.only(lambda name, source: _is_wanted(name, source.role, options))
    return selection, merge.adapted, merge.beside.files(dtype, folder=BESIDE_FOLDER)


def _in_table(sources: NameSources, base: str) -> Architecture | None:
    """What the built-in table says of the base model, if its files are exactly so: then transformers is not asked."""
    known = sources.by_table()
    if known is None or known.architecture is None:
        return None
    shapes = {name: tensor.shape for name, tensor in read_weights(base).tensors.items()}
    return known.architecture if is_exactly(known.architecture, shapes) else None


def _named(opened: Opened, selection: Selection, adapted: Adapted | None, options: Options) -> Named:
    """The tensors under the names their loader expects; what was merged into a base model has the base's."""
    if adapted is None or options.base_directory is None or options.rename is not None:
        partial = options.partial or opened.report is not None
        named = fit(opened.catalog, selection, options, partial=partial)
        return named if adapted is None else replace(named, ties=_merged_ties(adapted, named.selection))
    return Named(
        selection=selection,
        heads={},
        reason=f"names as in the base model {options.base_directory}",
        change=f"as in the base model {options.base_directory}",
        ties=_merged_ties(adapted, selection),
        warnings=(),
        unwrapped=adapted.is_wrapped,
    )


def _merged_ties(adapted: Adapted, selection: Selection) -> dict[str, str]:
    """The names of a merged model that are not written, because their tensor is under another -> that one."""
    written = {source.name: name for name, source in selection.named.items()}
    ties = adapted.ties.items()
    return {alias: written[kept] for alias, kept in ties if kept in written and alias not in selection.named}


def _refuse_unsaved(unsaved: Mapping[str, Unsaved], additions: Additions, options: Options) -> None:
    """Raises BadOption for parameters without values that are to be written."""
    roles = {Unsaved.NOT_OPTIMIZED: "trainable", Unsaved.QUANTIZED: "frozen"}
    wanted = {name: why for name, why in unsaved.items() if _is_wanted(name, roles[why], options)}
    refuse_unsaved(wanted, additions.sources, options.base_directory, additions.warnings)


def _refuse_unsaved_adapter(adapters: Adapters, unsaved: Mapping[str, Unsaved]) -> None:
    """No base has the values of an adapter. Raises BadOption."""
    lacking = [name for name in unsaved if name in adapters.parts and adapters.parts[name].adapter in adapters.configs]
    if lacking:
        raise BadOption(
            f"{counted(len(lacking), 'parameter')} of the adapter without values in the checkpoint",
            consequence=f"{listed(lacking, 2)}: {unsaved[lacking[0]].value}",
            remedy="write what is there under its names in the checkpoint with --lora keep --allow-missing",
        )


def _refuse_broken(adapters: Adapters, report: RescueReport) -> None:
    """An adapter is whole or worth nothing: whoever loads it puts random numbers in the place of what is not in its
    file, and a merge would leave the original's weights as if nothing had been trained. Raises BadOption."""
    broken = [
        name
        for name in report.not_written
        if name in adapters.parts and adapters.parts[name].adapter in adapters.configs
    ]
    if broken:
        raise BadOption(
            f"{counted(len(broken), 'tensor')} of the adapter cannot be rescued, such as {broken[0]}",
            consequence="PEFT would put random values in their place",
            remedy=(
                "take them from an earlier step that was written with --lora keep: --fill DIR",
                "put zeros in the place of lost values: --rescue=zeros",
                "write the tensors that are whole, under their names in the checkpoint: --lora keep",
            ),
        )
