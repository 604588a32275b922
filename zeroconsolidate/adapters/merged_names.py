"""What the tensors of a merged model are called, and which of their names are written.

Paths are as in `wrapped.py`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..plan.build import Source

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..plan.pieces import Recipe
    from .bases import Bases
    from .original import Found, Original
    from .wrapped import PeftModel

    Made = Mapping[str, tuple[Found, Source]]
    """Path -> what the tensor was found as, and what was made of it."""


def once(
    made: Made, model: PeftModel, bases: Bases, *, copy_ties: bool
) -> tuple[dict[str, tuple[Found, Source]], dict[str, str]]:
    """The tensors to write, by path; and names that are not written -> the name that their tensor is written under."""
    kept: dict[str, tuple[Found, Source]] = {}
    ties: dict[str, str] = {}
    first: dict[str, str] = {}
    # A shared tensor is written under the name that the original has for it, whose own would be left beside it else.
    for path in sorted(made, key=lambda path: (not made[path][0].is_original, not bases.is_in_files(path))):
        saved = next(iter(model.saved.get(path, {}).values()), None)
        # A stored name never ends in a space: paths and stored names do not meet.
        shared = bases.owner(path) if saved is None else f"{saved.name} "
        if first.setdefault(shared, path) != path and not copy_ties and not made[path][0].is_original:
            ties[bases.name(path)] = bases.name(first[shared])
        else:
            kept[path] = made[path]
    return {path: kept[path] for path in made if path in kept}, ties


def named_as_in(
    original: Original | None, kept: Made, model: PeftModel
) -> tuple[dict[str, Source], tuple[str, ...], tuple[str, ...]]:
    """(the output by name, names of the run that neither the original has nor its class expects, names of the original
    that its class does not expect)."""
    if original is None:
        spread = [found.spread(source.recipe, source.role) for found, source in kept.values()]
        named = {name: source for parts in spread for name, source in parts.items()}
        return _as_one(named, model.tied) | model.beside, (), ()
    changed = {
        path: (found, source)
        for path, (found, source) in kept.items()
        if not (found.is_original and source.recipe is found.source.recipe)
    }
    named = {name: Source.of_model(name, tensor) for name, tensor in original.tensors.items()}
    ignored = tuple(name for name in named if original.target is not None and not original.expects(name))
    named = {name: source for name, source in named.items() if name not in ignored}
    aliases = {original.name_of(path) for path in model.tied}
    unknown = []
    for name, source in original.in_files(changed).items():
        if name in named or original.expects(name):
            named[name] = source
        elif name in aliases:
            if original.target is None:
                named[name] = source
        elif source.role != "buffer":
            named[name] = source
            unknown.append(name)
    ties = {original.name_of(alias): original.name_of(target) for alias, target in model.tied.items()}
    return _as_one(named, ties) | model.beside, tuple(unknown), ignored


def _as_one(named: dict[str, Source], ties: Mapping[str, str]) -> dict[str, Source]:
    """The same with one recipe for a tensor that has several names: by that others know that it is one."""
    for alias, target in ties.items():
        if alias in named and target in named and named[alias].recipe == named[target].recipe:
            named[alias] = replace(named[alias], recipe=named[target].recipe)
    return named


def names_that_part(made: Made, model: PeftModel, bases: Bases) -> list[str]:
    """Names that share one tensor in the original model and have different values here."""

    def value(path: str) -> Recipe | None:
        return made[path][1].recipe if path in made else None

    pairs = [(alias, value(alias), value(target)) for alias, target in model.tied.items()]
    return [bases.name(alias) for alias, here, there in pairs if here and there and here != there]
