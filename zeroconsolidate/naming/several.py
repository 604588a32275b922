"""Stored names -> the models among them: a student next to its teacher, an actor next to its critic.

An engine that trains several models has them under names of their own, and config.json describes at most one:

    student.model.layers.0.…      a model: it has numbered layers
    teacher.model.layers.0.…      another
    temperature                   neither
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..archive.phrases import counted
from ..errors import WrongNames
from .decision import best_mapping

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..catalog.facts import Shape
    from .expectation import Naming


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One of several models, or one tower of a model, in a checkpoint.

    Attributes
    ----------
    prefix : str
        The prefix of its names, such as `student.`.
    tensors : int
        Its tensors.
    parameters : int
        Their elements.
    text
    """

    prefix: str
    tensors: int
    parameters: int

    @property
    def text(self) -> str:
        """Its name and size, in words."""
        return (
            f"{self.prefix.rstrip('.')}: {counted(self.parameters, 'parameter')} in {counted(self.tensors, 'tensor')}"
        )


def parts_of(shapes: Mapping[str, Shape]) -> tuple[Part, ...]:
    """Sibling modules that have numbered layers; none if there are fewer than two. `shapes`: stored name ->
    shape, ties left out.

    >>> [part.prefix for part in parts_of({"m.a.h.0.w": (2,), "m.b.h.0.w": (2,), "m.c": (1,)})]
    ['m.a.', 'm.b.']
    """
    common = _common(shapes)
    found: dict[str, list[Shape]] = {}
    layered: set[str] = set()
    for name, shape in shapes.items():
        child, _, inner = name.removeprefix(common).partition(".")
        found.setdefault(child, []).append(shape)
        if any(part.isdigit() for part in inner.split(".")[:-1]) and not child.isdigit():
            layered.add(child)
    parts = [
        Part(prefix=f"{common}{child}.", tensors=len(several), parameters=sum(map(math.prod, several)))
        for child, several in found.items()
        if child in layered
    ]
    return tuple(parts) if len(parts) > 1 else ()


def _common(names: Iterable[str]) -> str:
    """The modules that all names are in, with a dot at the end; none that is a number."""
    split = [name.split(".")[:-1] for name in names]
    common = []
    for place in zip(*split, strict=False):
        if len(set(place)) > 1 or place[0].isdigit():
            break
        common.append(f"{place[0]}.")
    return "".join(common)


def several_models(naming: Naming, stored: Mapping[str, Shape], ties: Mapping[str, str]) -> WrongNames | None:
    """The error where the names do not fit because there are several models, at least one of which fits.

    `stored`: stored name -> shape, with its aliases in `ties` (alias -> owner).
    """
    parts = parts_of({name: shape for name, shape in stored.items() if name not in ties})
    if naming.expectation is None or not parts:
        return None
    fitting = []
    for part in parts:
        inside = {name: shape for name, shape in stored.items() if name.startswith(part.prefix)}
        own = {alias: owner for alias, owner in ties.items() if alias in inside and owner in inside}
        if best_mapping(inside, own, naming.expectation).fits:
            fitting.append(part)
    if not fitting:
        return None
    fits = {part.prefix: "fits it" if part in fitting else "does not fit it" for part in parts}
    return WrongNames(
        f"the checkpoint holds {len(parts)} models, and config.json describes {naming.expectation.origin}",
        found=", ".join(f"{part.text} ({fits[part.prefix]})" for part in parts),
        remedy=tuple(
            f"write {part.prefix.rstrip('.')} with --include '{part.prefix}*'"
            + ("" if part in fitting else f" --rename {part.prefix}= --allow-missing, and replace config.json")
            for part in parts
        ),
    )
