"""An incomplete checkpoint and models to fill with -> where each element of each tensor comes from.

The executor needs to know nothing of it. A tensor with lost elements gets a recipe that takes them from another tensor
of the same shape, in this order: the copy in 16 bits that stages 0 to 2 save next to the masters, a model or checkpoint
given with `--fill`, zeros with `--rescue=zeros`. A tensor that stays incomplete is not written. What an optimizer keeps
of lost elements is taken from a checkpoint given with `--fill`, or is zeros.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..archive.names import FileKind, file_name, parse
from ..plan.build import Source, placed
from ..plan.patched import Patched, Zeros
from ..plan.pieces import Recipe, View
from ..plan.states import MASTERS, placed_states
from .losses import gaps

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..archive.located import LocatedTensor
    from ..catalog.facts import Catalog
    from ..dtypes import DType


@dataclass(frozen=True, slots=True, kw_only=True)
class Filler:
    """A model or checkpoint to take lost values from."""

    label: str
    """Its directory, as the user gave it."""
    step: int | None
    """The training step of its values, None if that is not known."""
    tensors: Mapping[str, Source]
    states: Mapping[str, Mapping[str, Source]]
    """What the optimizer keeps, by state; a model has nothing of it."""
    files: tuple[str, ...]
    """Every file these are in."""
    looks: Mapping[str, Mapping[str, int | str]]
    """What files of this machine looked like before they were read."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Others:
    """What may stand in for lost elements, in the order in which it is taken."""

    step: int | None
    """Of the checkpoint, and of the copies in it."""
    copies: Mapping[str, LocatedTensor]
    fillers: Sequence[tuple[Filler, Mapping[str, Source]]]
    """Each with what it has of the kind that is lost."""
    zeros: bool


def rescue(catalog: Catalog, fillers: Sequence[Filler], *, zeros: bool) -> tuple[Rescued, ...]:
    """Every stored tensor of the checkpoint, with stand-ins for what is lost, in the order of the module."""
    others = _Others(
        step=catalog.origin.step,
        copies=catalog.module,
        fillers=[(filler, filler.tensors) for filler in fillers],
        zeros=zeros,
    )
    names = _all_names(catalog)
    return tuple(_rescued(source, names[name], others) for name, source in placed(catalog).items())


def rescue_states(catalog: Catalog, fillers: Sequence[Filler]) -> dict[str, tuple[Rescued, ...]]:
    """The masters of every trained parameter, and by state what the optimizer keeps of them: there, zeros at least
    stand in for what is lost. Raises what :func:`.states.states` raises of a whole checkpoint."""
    names = _all_names(catalog)
    found = {}
    for state, sources in placed_states(catalog).items():
        is_master = state == MASTERS
        others = _Others(
            step=catalog.origin.step,
            copies=catalog.module if is_master else {},
            fillers=[(filler, filler.tensors if is_master else filler.states.get(state, {})) for filler in fillers],
            zeros=not is_master,
        )
        found[state] = tuple(_rescued(source, names[name], others) for name, source in sources.items())
    return found


def has_optimizer(catalog: Catalog) -> bool:
    """Whether an optimizer file of any rank is left."""
    return any((name := parse(file_name(path))) is not None and name[0] is FileKind.OPTIMIZER for path in catalog.files)


def _rescued(source: Source, names: Sequence[str], others: _Others) -> Rescued:
    holes = tuple(gaps(source.recipe))
    own = Origin(
        start=0,
        stop=source.recipe.numel,
        source="checkpoint",
        dtype=source.recipe.dtype,
        step=others.step,
        label=None,
    )
    if not holes:
        return Rescued(name=source.name, shape=source.shape, source=source, origins=(own,))
    found = _patch(source, names, others)
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


def _patch(source: Source, names: Sequence[str], others: _Others) -> tuple[Recipe, Origin] | None:
    """What stands in for a tensor known by any of `names`, and what to call it. None if nothing does."""
    for name in names:
        copy = others.copies.get(name)
        if copy is not None:
            return _stand_in(View(copy), "module", others.step)
    for filler, tensors in others.fillers:
        for name in names:
            there = tensors.get(name)
            if there is not None and _are_alike(there, source):
                return _stand_in(there.recipe, "fill", filler.step, filler.label)
    if others.zeros:
        return _stand_in(Zeros(source.recipe.numel, source.recipe.dtype), "zeros", None)
    return None


def _are_alike(one: Source, other: Source) -> bool:
    return one.shape == other.shape and one.recipe.dtype.kind == other.recipe.dtype.kind


def _stand_in(recipe: Recipe, kind: str, step: int | None, label: str | None = None) -> tuple[Recipe, Origin]:
    return recipe, Origin(start=0, stop=recipe.numel, source=kind, dtype=recipe.dtype, step=step, label=label)


def _all_names(catalog: Catalog) -> dict[str, list[str]]:
    names = {name: [name] for name in catalog.order}
    for alias, owner in catalog.ties.items():
        names.setdefault(owner, [owner]).append(alias)
    return names
