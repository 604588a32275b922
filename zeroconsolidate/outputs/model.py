"""From a catalog and the caller's options to a plan: which tensors, under which names, in which layout."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from ..adapters.find import Adapters, find_adapters
from ..adapters.plan import Adapted, plan_export, plan_merge
from ..errors import BadOption
from ..naming.check import Wishes
from ..naming.fit import Target, fit
from ..opening.open import open_catalog, open_incomplete
from ..opening.substitutes import frozen_of_base, rescued
from ..options import parse_dtype, roots_of
from ..plan.build import ModelPlan, Selection, Source, build, padding_bytes, select, sources
from ..plan.patched import Patched

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..catalog.facts import Catalog
    from ..dtypes import DType
    from ..opening.rescue_report import RescueReport
    from ..opening.substitutes import Additions
    from ..options import Options, Roots


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A plan, and what goes with it."""

    plan: ModelPlan
    dtype: DType
    """What floating-point parameters are written as."""
    target: Target
    adapted: Adapted | None = None
    """Of a run with adapters that were merged or are written for PEFT: what goes with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A checkpoint with everything that stands in for what it lacks."""

    catalog: Catalog
    stored: Mapping[str, Source]
    whole: Mapping[str, Source]
    """Those of `stored` that are nothing but the checkpoint's own."""
    additions: Additions
    report: RescueReport | None
    filled_from: tuple[str, ...]
    adapters: Adapters | None
    """The PEFT adapters to merge or to write; None if there are none, or if they are kept as they are."""


def open_for(src: Roots, tag: str | None, options: Options) -> Opened:
    """Open a checkpoint, rescue what can be had of an incomplete one if asked, add what the base model has to give."""
    incomplete = open_incomplete(src, tag) if options.rescue else None
    if incomplete is not None and incomplete.catalog.missing:
        catalog = incomplete.catalog
        stored, report, filled_from = rescued(incomplete, roots_of(options.fill), zeros=options.rescue == "zeros")
        whole = {name: source for name, source in stored.items() if not isinstance(source.recipe, Patched)}
    else:
        catalog, report, filled_from = open_catalog(src, tag), None, ()
        stored = whole = sources(catalog)
    adapters = find_adapters(catalog, lora=options.lora, chosen=options.adapters)
    if adapters is not None and report is not None:
        _refuse_broken(adapters, report)
    return Opened(
        catalog=catalog,
        stored=stored,
        whole=whole,
        # A merge takes what it needs of the base itself, an adapter needs none of it.
        additions=frozen_of_base(catalog, stored, options.base_directory if adapters is None else None),
        report=report,
        filled_from=filled_from,
        adapters=adapters,
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
            f"{len(broken)} tensors of the adapter have lost a part, such as {broken[0]}, and an adapter is of use "
            "only whole: fill it (--fill) with an earlier step that was written with --lora keep, take zeros "
            "(--rescue=zeros), or write what is whole under its raw names (--lora keep)"
        )


def plan_model(opened: Opened, options: Options) -> Planned:
    """Plan the output. Raises what `fit` and `build` raise."""
    catalog = opened.catalog

    def wanted(name: str, source: Source) -> bool:
        if options.exclude_frozen and source.role == "frozen":
            return False
        included = not options.include or any(fnmatchcase(name, glob) for glob in options.include)
        return included and not any(fnmatchcase(name, glob) for glob in options.exclude)

    dtype = parse_dtype(options.dtype, catalog.origin.training_dtype)
    adapters = opened.adapters
    if adapters is not None and options.lora != "merge":
        if options.include or options.exclude:
            raise BadOption("an adapter is written whole: --include and --exclude go with --lora keep or merge")
        return _as_adapters(opened, adapters, dtype)
    adapted = None
    if adapters is None:
        chosen = select(catalog, opened.stored, copy_ties=options.ties == "copy", wanted=wanted)
        chosen = Selection(named={**chosen.named, **opened.additions.sources}, left_out=chosen.left_out).only(wanted)
    else:
        if options.exclude_frozen:
            raise BadOption(
                "a merged model needs its frozen weights: --exclude-frozen goes with --lora adapter or keep"
            )
        merge = plan_merge(
            catalog,
            opened.stored,
            adapters,
            base=options.base_directory,
            dtype=dtype,
            copy_ties=options.ties == "copy",
        )
        chosen, adapted = merge.selection.only(wanted), merge.adapted
    if adapted is not None and options.base_directory is not None and options.rename is None:
        target = Target(
            selection=chosen,
            heads={},
            reason=f"names as in the base model {options.base_directory}",
            warnings=(),
            unwrapped=adapted.is_wrapped,
        )
    else:
        target = _fitted(catalog, chosen, options, partial=options.partial or opened.report is not None)
    plan = build(
        target.selection,
        dtype=dtype,
        max_shard_bytes=options.max_shard_bytes,
        padding_bytes=padding_bytes(catalog),
    )
    return Planned(plan=plan, dtype=dtype, target=target, adapted=adapted)


def _fitted(catalog: Catalog, chosen: Selection, options: Options, *, partial: bool) -> Target:
    return fit(
        catalog,
        chosen,
        Wishes(
            names=options.names,
            rename=options.rename,
            base=options.base_directory,
            allow_missing=options.allow_missing,
            partial=partial,
        ),
    )


def _as_adapters(opened: Opened, adapters: Adapters, dtype: DType) -> Planned:
    plan, adapted, warnings = plan_export(opened.catalog, opened.stored, adapters, dtype=dtype)
    target = Target(
        selection=Selection(named={}, left_out=plan.left_out),
        heads={},
        reason="PEFT's own names",
        warnings=warnings,
        unwrapped=adapted.is_wrapped,
    )
    return Planned(plan=plan, dtype=dtype, target=target, adapted=adapted)
