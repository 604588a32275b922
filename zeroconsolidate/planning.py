"""From a catalog and the caller's options to a plan: which tensors, under which names, in which layout."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from .lazy import parse_dtype
from .plan.build import ModelPlan, Selection, Source, build, padding_bytes, select
from .target import Target, Wishes, fit

if TYPE_CHECKING:
    from collections.abc import Mapping

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


def plan_model(
    catalog: Catalog,
    options: Options,
    stored: Mapping[str, Source],
    *,
    additions: Mapping[str, Source] | None = None,
    partial: bool = False,
) -> Planned:
    """Plan the output. Raises what `fit` and `build` raise.

    `stored`: the checkpoint's tensors by their names in it. `additions`: tensors from elsewhere, by output name.
    `partial`: tensors that the checkpoint should have are not in `stored`, and the caller knows.
    """

    def wanted(name: str, source: Source) -> bool:
        if options.exclude_frozen and source.role == "frozen":
            return False
        included = not options.include or any(fnmatchcase(name, glob) for glob in options.include)
        return included and not any(fnmatchcase(name, glob) for glob in options.exclude)

    dtype = parse_dtype(options.dtype, catalog.origin.training_dtype)
    chosen = select(catalog, stored, copy_ties=options.ties == "copy")
    chosen = Selection(named={**chosen.named, **(additions or {})}, left_out=chosen.left_out).only(wanted)
    target = fit(
        catalog,
        chosen,
        Wishes(
            names=options.names,
            rename=options.rename,
            base=options.base_directory,
            allow_missing=options.allow_missing,
            partial=options.partial or partial,
        ),
    )
    plan = build(
        target.selection,
        dtype=dtype,
        max_shard_bytes=options.max_shard_bytes,
        padding_bytes=padding_bytes(catalog),
    )
    return Planned(plan=plan, dtype=dtype, target=target)
