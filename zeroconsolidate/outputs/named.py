"""A checkpoint that is open -> the tensors of its mapping, under the names that were asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import ZeroConsolidateError
from ..options import Options
from ..plan.sources import Source
from .planned import plan_weights, with_recorded_base

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ..opening.opened import Opened
    from ..options import ReadingOptions


def stored_tensors(opened: Opened) -> dict[str, Source]:
    """The tensors under all of their names in the checkpoint, in the order of the module."""
    catalog, stored = opened.catalog, opened.whole
    return {name: stored[owner] for name in catalog.order if (owner := catalog.ties.get(name, name)) in stored}


def planned_tensors(opened: Opened, options: ReadingOptions) -> dict[str, Source]:
    """The tensors that `consolidate` would write, under its names; a tied weight under each of its names.

    Raises what `consolidate` raises for names and adapters.
    """
    planned = plan_weights(
        replace(opened, stored=opened.whole),
        with_recorded_base(
            opened,
            Options(
                tag=options.tag,
                names="hub" if options.names == "stored" else options.names,
                lora=options.lora,
                base=options.base,
                ties="copy",
                max_shard_size=None,
                allow_missing=options.rescue,
            ),
        ),
    )
    named = planned.named
    if named.selection.named:
        return {**named.selection.named, **named.heads}
    # An adapter, which its plan alone lists.
    return {
        tensor.name: Source(name=tensor.name, shape=tensor.shape, recipe=tensor.recipe, role="trainable")
        for tensor in planned.plan.tensors()
    }


def ties_of(tensors: Mapping[str, Source]) -> dict[str, str]:
    """Second names -> the first, of tensors that are the same."""
    first: dict[int, str] = {}
    names = {name: first.setdefault(id(source.recipe), name) for name, source in tensors.items()}
    return {name: owner for name, owner in names.items() if name != owner}


def in_storage_order(tensors: Mapping[str, Source], files: Sequence[str]) -> list[str]:
    """Names in the order in which their tensors begin in `files`; what is computed comes last, as it stands."""
    position = {file: number for number, file in enumerate(files)}

    def place(name: str) -> tuple[int, str, int]:
        recipe = tensors[name].recipe
        first = next(recipe.copies(0, 1), None) if recipe.is_copied and recipe.numel else None
        if first is None:
            return len(position) + 1, "", 0
        return position.get(first.file, len(position)), first.file, first.file_start

    return sorted(tensors, key=place)


def written_names(opened: Opened, base: object) -> dict[str, str]:
    """Name that `consolidate` writes -> name in the checkpoint; nothing if it would refuse to write."""
    from ..options import ReadingOptions

    try:
        tensors = planned_tensors(opened, ReadingOptions(names="hub", base=base))  # type: ignore[arg-type]
    except ZeroConsolidateError:
        return {}
    return {name: source.name for name, source in tensors.items()}


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """The names that are most like this one: those that end like it first, for wrappers change the beginning."""
    from difflib import get_close_matches

    known = list(names)
    tail = name.rpartition(".")[0].rpartition(".")[2]
    ends = [each for each in known if each.endswith(f".{name}") or name.endswith(f".{each}")]
    same = [each for each in known if tail and each.endswith(name[name.index(tail) :])]
    return list(dict.fromkeys([*ends, *get_close_matches(name, [*same, *known], n=3, cutoff=0.5)]))[:3]
