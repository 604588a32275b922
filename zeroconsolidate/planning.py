"""From a catalog and the caller's options to a plan: which tensors, under which names, in which layout."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from .lazy import parse_dtype
from .plan.build import ModelPlan, Source, build, padding_bytes, select, sources
from .target import Target, Wishes, fit

if TYPE_CHECKING:
    from .catalog.facts import Catalog
    from .dtypes import DType
    from .options import Options


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A plan, and what goes with it."""

    plan: ModelPlan
    dtype: DType
    """What floating-point parameters are written as."""
    target: Target


def plan_model(catalog: Catalog, options: Options) -> Planned:
    """Plan the output. Raises what `sources`, `fit` and `build` raise."""

    def wanted(name: str, source: Source) -> bool:
        if options.exclude_frozen and source.role == "frozen":
            return False
        included = not options.include or any(fnmatchcase(name, glob) for glob in options.include)
        return included and not any(fnmatchcase(name, glob) for glob in options.exclude)

    dtype = parse_dtype(options.dtype, catalog.origin.training_dtype)
    chosen = select(catalog, sources(catalog), copy_ties=options.ties == "copy").only(wanted)
    target = fit(
        catalog,
        chosen,
        Wishes(
            names=options.names,
            rename=options.rename,
            base=options.base_directory,
            allow_missing=options.allow_missing,
            partial=options.partial,
        ),
    )
    plan = build(
        target.selection,
        dtype=dtype,
        max_shard_bytes=options.max_shard_bytes,
        padding_bytes=padding_bytes(catalog),
    )
    return Planned(plan=plan, dtype=dtype, target=target)
