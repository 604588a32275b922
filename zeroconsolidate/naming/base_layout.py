"""How a model in memory lies in the files of the base model that it was trained from.

transformers 5 holds some weights under other names and in other shapes than files have them (`hub_layout.py`). What
it does when it saves is known for each tensor; here it is turned around, so that the weight under an adapter is found
in the base's files, and written there again with the adapter merged into it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import Disagreement
from ..plan.build import Source
from ..plan.pieces import Rows, View
from .decision import best_change, best_mapping, moved
from .expectation import compare
from .hub_layout import converted, refuse_opaque

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ..archive.located import LocatedTensor
    from ..catalog.facts import Shape
    from ..plan.pieces import Recipe
    from .expectation import Expectation
    from .hub_layout import Architecture, Conversion


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseLayout:
    """The base's files by the names of the class that was trained."""

    files: Expectation
    """What that class expects of its files."""
    memory: Expectation
    """Its names in memory, or those of its files if the run had these."""
    renamed: Mapping[str, str]
    """Name in the base's files -> the class' name for it, where they differ: a class without a head has no prefix."""
    change: tuple[str, str]
    """Prefix to take from the run's names, and prefix to put before them, to get those of `memory`."""
    made_of: Mapping[str, tuple[Conversion, ...]]
    """Name in memory -> what its files make of it, where it is not that tensor itself."""

    def name_of(self, path: str) -> str | None:
        """The name in memory of a tensor of the run; None if the class has no such tensor."""
        there = moved(path, self.change)
        return next((name for name in (there, path) if name in self.memory.shapes), None)

    def file_name(self, name: str) -> str:
        """What files call a tensor in memory, as far as it is one tensor there."""
        conversions = self.made_of.get(name, ())
        return conversions[0].output if self._is_rename(name, conversions) else name

    def is_opaque(self, name: str) -> bool:
        """Whether its files have the elements in an order that cannot be turned around."""
        return any(conversion.opaque for conversion in self.made_of.get(name, ()))

    def source(self, name: str, tensors: Mapping[str, LocatedTensor]) -> Source | None:
        """A tensor in memory, found in files; None if they do not have it."""
        conversions = self.made_of.get(name, ())
        if not conversions or self._is_rename(name, conversions):
            tensor = tensors.get(self.file_name(name))
            if tensor is None:
                return None
            shape = self.memory.shapes.get(name)
            fits = shape is not None and math.prod(shape) == tensor.numel
            return Source(
                name=name, shape=shape if fits and shape else tensor.shape, recipe=View(tensor), role="frozen"
            )
        return self._put_together(name, conversions, tensors)

    def in_files(self, made: Mapping[str, Source], tensors: Mapping[str, LocatedTensor]) -> dict[str, Source]:
        """`made`, by names in memory, as files have it. Raises UnsupportedLayout for what has another order there.

        Where a tensor of the files is made of several, those that are not in `made` are the files' own.
        """
        found: dict[str, Source] = {}
        for name, source in made.items():
            conversions = self.made_of.get(name, ())
            if not conversions or self._is_rename(name, conversions):
                # The rows of a vocabulary may have grown: then the shape is no matter of names.
                shape = conversions[0].shape if conversions else source.shape
                same = math.prod(shape) == math.prod(source.shape)
                found[self.file_name(name)] = Source(
                    name=source.name, shape=shape if same else source.shape, recipe=source.recipe, role=source.role
                )
                continue
            for conversion in conversions:
                refuse_opaque(conversion)
                inputs = {other: made.get(other) or self.source(other, tensors) for other in conversion.inputs}
                known = {other: its for other, its in inputs.items() if its is not None}
                if len(known) == len(inputs):
                    role = "trainable" if any(its.role == "trainable" for its in known.values()) else source.role
                    whole = converted(conversion, known)
                    found[conversion.output] = Source(
                        name=source.name, shape=whole.shape, recipe=whole.recipe, role=role
                    )
        return found

    def in_order(self, module: str, parameters: Iterable[str]) -> list[str]:
        """Those `parameters` of a module of the run that the class has, in the order of the class."""
        wanted = {self.name_of(f"{module}.{parameter}"): parameter for parameter in parameters}
        return [wanted[name] for name in self.memory.shapes if name in wanted]

    def _is_rename(self, name: str, conversions: Sequence[Conversion]) -> bool:
        if len(conversions) != 1 or conversions[0].opaque or conversions[0].inputs != (name,):
            return False
        (conversion,) = conversions
        shape = self.memory.shapes.get(name)
        return (
            len(conversion.runs) == 1
            and conversion.runs[0][:2] == (0, 0)
            and shape is not None
            and math.prod(shape) == conversion.runs[0][2] * conversion.row_numel
        )

    def _put_together(
        self, name: str, conversions: Sequence[Conversion], tensors: Mapping[str, LocatedTensor]
    ) -> Source | None:
        """The rows of a tensor in memory, from wherever the files have them."""
        shape = self.memory.shapes.get(name)
        there = [tensors.get(conversion.output) for conversion in conversions]
        held = [tensor for tensor in there if tensor is not None]
        fits = len(held) == len(conversions) and all(
            not conversion.opaque and tensor.shape == conversion.shape
            for conversion, tensor in zip(conversions, held, strict=True)
        )
        if shape is None or not fits or len({t.dtype for t in held}) > 1 or len({c.row_numel for c in conversions}) > 1:
            return None
        runs: list[tuple[int, int, int, int]] = []
        for number, conversion in enumerate(conversions):
            here, row = conversion.inputs.index(name), 0
            for of, first, count in conversion.runs:
                if of == here:
                    runs.append((first, number, row, count))
                row += count
        row_numel = conversions[0].row_numel
        recipe: Recipe = Rows(tuple(map(View, held)), row_numel, tuple(run[1:] for run in sorted(runs)))
        return (
            None if recipe.numel != math.prod(shape) else Source(name=name, shape=shape, recipe=recipe, role="frozen")
        )


def base_layout(architecture: Architecture, shapes: Mapping[str, Shape], paths: Sequence[str]) -> BaseLayout | None:
    """How the class that was trained lies in the base's files; None if they are not of the same model.

    `shapes`: of the base's files. `paths`: names of the run, or of modules in it that must be there. The base may have
    been saved from a class with another head, and the run may have been one of transformers 4, which has the names of
    files in memory. Raises Disagreement if it could be either of two like modules of the base that was trained.
    """
    candidates = [best_mapping(shapes, {}, expected) for expected in (architecture.hub, architecture.expectation)]
    there = min(candidates, key=lambda naming: naming.wrong)
    files = there.expectation or architecture.hub
    if 2 * sum(1 for name in there.mapping.values() if name in files.shapes) <= len(shapes):
        return None
    in_memory, in_files = (best_change(paths, expected.shapes) for expected in (architecture.expectation, files))
    turned = in_memory.hits >= in_files.hits and files is not architecture.expectation
    change = in_memory if turned else in_files
    if not change.hits:
        return None
    if change.rival is not None:
        raise Disagreement(
            f"a trained tensor may be {change.rival[0]} or {change.rival[1]} of the base model",
            remedy="name with --base the model that was trained, not a larger one that contains it",
        )
    made_of: dict[str, list[Conversion]] = {}
    for conversion in architecture.conversions if turned else ():
        for name in conversion.inputs:
            made_of.setdefault(name, []).append(conversion)
    return BaseLayout(
        files=files,
        memory=architecture.expectation if turned else files,
        renamed={name: new for name, new in there.mapping.items() if name != new},
        change=change.prefixes,
        made_of={name: tuple(conversions) for name, conversions in made_of.items()},
    )


def is_exactly(architecture: Architecture, shapes: Mapping[str, Shape]) -> bool:
    """Whether the base's files have the names and shapes of a class, and no others. `shapes`: theirs."""
    names = {name: name for name in shapes}
    return any(compare(names, shapes, {}, each, "").fits for each in (architecture.hub, architecture.expectation))
