"""An incomplete checkpoint and models to fill with -> where each element of each tensor comes from.

The executor needs to know nothing of it. A tensor with lost elements gets a recipe that takes them from another tensor
of the same shape, in this order: the copy in 16 bits that stages 0 to 2 save next to the masters, a model given with
`--fill`, zeros with `--rescue=zeros`. A tensor that stays incomplete is not written.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..plan.build import Source, placed
from ..plan.patched import Patched, Zeros
from ..plan.pieces import Recipe, View
from .losses import gaps

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..archive.located import LocatedTensor
    from ..catalog.facts import Catalog
    from ..dtypes import DType


@dataclass(frozen=True, slots=True, kw_only=True)
class Filler:
    """A model to take lost values from."""

    label: str
    """Its directory, as the user gave it."""
    step: int | None
    """The training step it was consolidated from, None if that is not known."""
    tensors: Mapping[str, LocatedTensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where elements `[start, stop)` of a tensor come from."""

    start: int
    stop: int
    source: str
    """`checkpoint`, `module` (the 16-bit copy), `fill`, `zeros`, or `nowhere`: not written."""
    dtype: DType
    """Before any cast to the output's dtype."""
    step: int | None
    label: str | None
    """For `fill`, the directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescued:
    """One tensor of an incomplete checkpoint."""

    name: str
    shape: tuple[int, ...]
    source: Source | None
    """None if it cannot be written, because nothing stands in for what is lost of it."""
    origins: tuple[Origin, ...]
    """From element 0 to the last, without gaps."""


def rescue(catalog: Catalog, fillers: Sequence[Filler], *, zeros: bool) -> tuple[Rescued, ...]:
    """Every stored tensor of the checkpoint, with stand-ins for what is lost, in the order of the module."""
    names = _all_names(catalog)
    return tuple(
        _rescued(source, names[name], catalog, fillers, zeros=zeros) for name, source in placed(catalog).items()
    )


def _rescued(
    source: Source, names: Sequence[str], catalog: Catalog, fillers: Sequence[Filler], *, zeros: bool
) -> Rescued:
    holes = tuple(gaps(source.recipe))
    own = Origin(
        start=0,
        stop=source.recipe.numel,
        source="checkpoint",
        dtype=source.recipe.dtype,
        step=catalog.origin.step,
        label=None,
    )
    if not holes:
        return Rescued(name=source.name, shape=source.shape, source=source, origins=(own,))
    found = _patch(source, names, catalog, fillers, zeros=zeros)
    if found is None:
        lost = replace(own, source="nowhere", step=None)
        return Rescued(name=source.name, shape=source.shape, source=None, origins=(lost,))
    patch, foreign = found
    origins, here = [], 0
    for start, stop in holes:
        if here < start:
            origins.append(replace(own, start=here, stop=start))
        origins.append(replace(foreign, start=start, stop=stop))
        here = stop
    if here < own.stop:
        origins.append(replace(own, start=here))
    return Rescued(
        name=source.name,
        shape=source.shape,
        source=replace(source, recipe=Patched(source.recipe, patch, holes)),
        origins=tuple(origins),
    )


def _patch(
    source: Source, names: Sequence[str], catalog: Catalog, fillers: Sequence[Filler], *, zeros: bool
) -> tuple[Recipe, Origin] | None:
    """What stands in for a tensor known by any of `names`, and what to call it. None if nothing does."""
    for name in names:
        copy = catalog.module.get(name)
        if copy is not None:
            return _stand_in(View(copy), "module", catalog.origin.step)
    for filler in fillers:
        for name in names:
            tensor = filler.tensors.get(name)
            if tensor is not None and tensor.shape == source.shape and tensor.dtype.kind == source.recipe.dtype.kind:
                return _stand_in(View(tensor), "fill", filler.step, filler.label)
    if zeros:
        return _stand_in(Zeros(source.recipe.numel, source.recipe.dtype), "zeros", None)
    return None


def _stand_in(recipe: Recipe, kind: str, step: int | None, label: str | None = None) -> tuple[Recipe, Origin]:
    return recipe, Origin(start=0, stop=recipe.numel, source=kind, dtype=recipe.dtype, step=step, label=label)


def _all_names(catalog: Catalog) -> dict[str, list[str]]:
    names = {name: [name] for name in catalog.order}
    for alias, owner in catalog.ties.items():
        names.setdefault(owner, [owner]).append(alias)
    return names
