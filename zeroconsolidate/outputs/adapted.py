"""A checkpoint with adapters -> the adapters as PEFT saves them, or the model with them merged in.

Imported only where there are adapters: a run without them does not pay for it.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from ..adapters.find import refuse_modules
from ..adapters.plan_export import plan_export
from ..adapters.plan_merge import plan_merge
from ..adapters.task import task_of
from ..archive.model_config import has_config
from ..archive.phrases import counted, listed
from ..archive.weights import read_weights
from ..errors import BadOption, ZeroConsolidateError
from ..integrations.packages import need_torch
from ..naming.base_layout import is_exactly
from ..naming.fit import Named, fit
from ..naming.sources import NameSources
from ..opening.unsaved import refuse_unsaved
from ..options import refuse_unmatched
from ..plan.build import ModelPlan, Selection

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..adapters.adapted import Adapted
    from ..adapters.beside import Beside
    from ..adapters.find import Adapters
    from ..adapters.plan_merge import Merge
    from ..catalog.facts import Unsaved
    from ..dtypes import DType
    from ..naming.hub_layout import Architecture
    from ..opening.opened import Opened
    from ..opening.rescue_report import RescueReport
    from ..options import Options
    from ..plan.build import Source


def refuse_unusable(opened: Opened, adapters: Adapters, options: Options) -> None:
    """Raises BadOption or UnsupportedLayout for adapters that are incomplete, or whose modules have unknown names."""
    if opened.report is not None:
        _refuse_broken(adapters, opened.report)
    known = options.base_directory is not None or (options.lora == "merge" and has_config(opened.catalog.origin.root))
    if not known:
        refuse_modules(adapters.parts.values())
    if opened.catalog.unsaved:
        _refuse_unsaved_adapter(adapters, opened.catalog.unsaved)


def exported(opened: Opened, adapters: Adapters, options: Options, dtype: DType) -> tuple[ModelPlan, Named, Adapted]:
    """The adapters as PEFT would save them."""
    if options.include or options.exclude:
        raise BadOption(
            "--include and --exclude cannot be used with an adapter, which is written whole",
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
    return plan, named, adapted


def merged(
    opened: Opened, adapters: Adapters, options: Options, dtype: DType, wanted: Callable[[str, Source], bool]
) -> tuple[Selection, Adapted, Beside]:
    """The model with its adapters merged into it, and what was trained around it.

    Raises MissingPackage where torch is not installed.
    """
    need_torch("merging adapters")
    if options.base_directory is None and not options.allow_missing:
        refuse_unsaved(opened.catalog.unsaved, (), None)
    if options.exclude_frozen:
        raise BadOption(
            "--exclude-frozen cannot be used with a merged model, which needs its frozen weights",
            remedy="use --lora adapter or --lora keep",
        )
    base = options.base_directory
    task = task_of(adapters.configs.values())
    sources = NameSources(opened.catalog.origin.root, base, options.set_config, task=task, remember=options.cache)
    insisted = options.allow_missing or options.names == "stored" or options.rename is not None

    def planned(architecture: tuple[Architecture | None, str]) -> Merge:
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
        # Names are needed for the base's files only; without a base the merged model is named like any.
        merge = planned((None, "names as in the checkpoint (--names stored)"))
    else:
        known, by_table = None if insisted else _in_table(sources, base), None
        if known is not None:
            with suppress(ZeroConsolidateError):  # why not is then found out with transformers
                by_table = planned((known, ""))
        merge = by_table or planned((sources.architecture, sources.unasked))
    refuse_unmatched(options.include, merge.selection.named)
    selection = merge.selection.only(wanted)
    return selection, merge.adapted, merge.beside


def _in_table(sources: NameSources, base: str) -> Architecture | None:
    """What the built-in table says of the base model, if its files are exactly so: then transformers is not asked."""
    known = sources.by_table()
    if known is None or known.architecture is None:
        return None
    shapes = {name: tensor.shape for name, tensor in read_weights(base).tensors.items()}
    return known.architecture if is_exactly(known.architecture, shapes) else None


def name_merged(opened: Opened, selection: Selection, adapted: Adapted, options: Options) -> Named:
    """A merged model under the names its loader expects: the base's, if one was given."""
    if options.base_directory is None or options.rename is not None:
        fitted = fit(opened.catalog, selection, options, partial=options.partial or opened.report is not None)
        return replace(fitted, ties=_merged_ties(adapted, fitted.selection))
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


def _refuse_unsaved_adapter(adapters: Adapters, unsaved: Mapping[str, Unsaved]) -> None:
    """No base has the values of an adapter. Raises BadOption."""
    lacking = [name for name in unsaved if name in adapters.parts and adapters.parts[name].adapter in adapters.configs]
    if lacking:
        raise BadOption(
            f"{counted(len(lacking), 'parameter')} of the adapter {'has' if len(lacking) == 1 else 'have'} no values "
            "in the checkpoint",
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
                "write zeros for lost values: --rescue=zeros",
                "write the tensors that are whole, under their names in the checkpoint: --lora keep",
            ),
        )
