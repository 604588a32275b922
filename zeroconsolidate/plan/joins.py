"""Parts of a tensor and a rule -> the whole, in boxes that are proven to tile it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..archive.located import row_major
from ..catalog.rules import Affine, Concatenated, Join, Rule
from ..dtypes import DType
from ..errors import DamagedFile, Disagreement, UnsupportedLayout, at
from .boxes import Axis, Box, boxes_of, tile
from .joined import Joined, Mean, Section

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..catalog.facts import Shape
    from .pieces import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A tensor, or its part, as one set of ranks holds it."""

    shape: Shape
    recipe: Recipe
    role: str
    """`trainable`, `frozen` or `buffer`."""
    holder: str
    is_spare: bool = False
    """Whether the checkpoint declares that this copy does not count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """Two recipes that must give the same elements, and who holds each."""

    name: str
    first: Recipe
    other: Recipe
    holders: tuple[str, str]
    is_spare: bool = False
    """Whether the checkpoint declares that the other does not count: then a difference is a warning, not an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """A tensor put together."""

    shape: Shape
    recipe: Recipe
    replicas: tuple[Replica, ...]


def put_together(name: str, join: Join | None, parts: Sequence[Held]) -> Whole:
    """The tensor that `parts`, one of each rank of the axis, make. None: they are replicas.

    Raises Disagreement if the parts do not tile the tensor, DamagedFile if their dtypes differ.
    """
    if len(parts) == 1 and join is None:
        return Whole(shape=parts[0].shape, recipe=parts[0].recipe, replicas=())
    with at(name):
        if len({part.recipe.dtype for part in parts}) != 1:
            raise DamagedFile("the parts differ in dtype", found=", ".join(p.recipe.dtype.code for p in parts))
        rule = join.rule if join else Rule.REPLICATED
        shape, boxes = lay_out(rule, [part.shape for part in parts])
        replicas: list[Replica] = []
        if rule is Rule.AVERAGED:
            if parts[0].recipe.dtype not in (DType.F32, DType.F64):
                raise UnsupportedLayout(f"a mean of {parts[0].recipe.dtype.code} elements would not be exact")
            recipe: Recipe = Mean(tuple(part.recipe for part in parts)) if len(parts) > 1 else parts[0].recipe
        else:
            recipe = _join(name, shape, boxes, parts, replicas)
        if join and join.rows is not None and join.rows != shape[0]:
            rows = join.rows
            if not 0 < rows <= shape[0]:
                raise Disagreement("the vocabulary is larger than the tensor", expected=f"{rows} rows", found=shape[0])
            recipe = Section(recipe, 0, recipe.numel // shape[0] * rows)
            shape = (rows, *shape[1:])
        return Whole(shape=shape, recipe=recipe, replicas=tuple(replicas))


def whole_shape(join: Join | None, shapes: Sequence[Shape]) -> Shape:
    """The shape of the tensor that parts of these shapes make."""
    shape, _ = lay_out(join.rule if join else Rule.REPLICATED, shapes)
    return shape if join is None or join.rows is None else (join.rows, *shape[1:])


def lay_out(rule: Rule | Concatenated | Affine, shapes: Sequence[Shape]) -> tuple[Shape, list[list[Box]]]:
    """The shape of the whole, and by part where its elements go."""
    if isinstance(rule, Rule):
        if len(set(shapes)) != 1:
            raise Disagreement("the copies of a replicated tensor differ in shape", found=", ".join(map(str, shapes)))
        strides = row_major(shapes[0])
        return shapes[0], [boxes_of(shapes[0], (0, strides), (0, strides)) for _ in shapes]
    if isinstance(rule, Concatenated):
        return _concatenated(rule, shapes)
    if len(rule.pieces) != len(shapes):
        raise Disagreement(f"the affine map is of {len(rule.pieces)} ranks", expected=len(shapes))
    for shape, pieces in zip(shapes, rule.pieces, strict=True):
        held = sum(math.prod(piece.shape) for piece in pieces)
        if held > math.prod(shape):
            raise Disagreement(f"the affine map needs {held} elements of a part of {math.prod(shape)}")
    return rule.shape, [[one for p in pieces for one in boxes_of(p.shape, p.source, p.dest)] for pieces in rule.pieces]


def _concatenated(rule: Concatenated, shapes: Sequence[Shape]) -> tuple[Shape, list[list[Box]]]:
    dim = rule.dim
    view = rule.view
    if view is None:
        if any(dim >= len(shape) for shape in shapes):
            raise Disagreement(f"a part has no dimension {dim} to be joined along", found=", ".join(map(str, shapes)))
        view = shapes[0]
    widths = rule.widths or (tuple(shape[dim] for shape in shapes),)
    if any(len(of_ranks) != len(shapes) for of_ranks in widths):
        raise Disagreement(f"the widths are those of {len(widths[0])} ranks", expected=len(shapes))
    total = sum(sum(of_ranks) for of_ranks in widths)
    whole = (*view[:dim], total, *view[dim + 1 :])
    whole = _without_blank(whole, sum(math.prod(shape) for shape in shapes))
    strides, boxes = row_major(whole), []
    for rank, shape in enumerate(shapes):
        own = (*whole[:dim], sum(of_ranks[rank] for of_ranks in widths), *whole[dim + 1 :])
        if own != shape and (rule.view is None or math.prod(own) != math.prod(shape)):
            raise Disagreement("a part does not fit the others", expected=f"shape {own}", found=shape)
        own_strides, first, own_first, own_boxes = row_major(own), 0, 0, []
        for of_ranks in widths:
            width, here = of_ranks[rank], first + sum(of_ranks[:rank])
            cut = (*whole[:dim], width, *whole[dim + 1 :])
            source, dest = (here * strides[dim], strides), (own_first * own_strides[dim], own_strides)
            own_boxes += boxes_of(cut, source, dest)
            first, own_first = first + sum(of_ranks), own_first + width
        boxes.append(own_boxes)
    return _folded(whole, shapes[0]), boxes


def _without_blank(shape: Shape, numel: int) -> Shape:
    """`shape` with its one -1 replaced by what makes `numel` elements."""
    blanks = [index for index, n in enumerate(shape) if n == -1]
    if not blanks:
        return shape
    rest = math.prod(shape[: blanks[0]]) * math.prod(shape[blanks[0] + 1 :])
    if len(blanks) > 1 or rest <= 0 or numel % rest:
        raise Disagreement("the sub-parameters' shape does not fit", expected=f"{numel} elements", found=shape)
    return (*shape[: blanks[0]], numel // rest, *shape[blanks[0] + 1 :])


def _folded(whole: Shape, part: Shape) -> Shape:
    """The whole tensor's shape with as many dimensions as a part: leading ones of a finer view are one again."""
    if len(whole) == len(part):
        return whole
    behind = part[1:]
    if len(whole) < len(part) or (behind and whole[-len(behind) :] != behind):
        raise Disagreement(f"the sub-parameters' shape {whole} does not fit the parts' {part}")
    return (math.prod(whole) // max(math.prod(behind), 1), *behind)


def _join(
    name: str, shape: Shape, boxes: Sequence[Sequence[Box]], parts: Sequence[Held], replicas: list[Replica]
) -> Recipe:
    """The first holder of each box gives it; where others hold it as well, they are `replicas`."""
    numel = math.prod(shape)
    if not numel:
        return parts[0].recipe
    owners: dict[tuple[object, ...], tuple[Box, Held]] = {}
    for of_part, part in zip(boxes, parts, strict=True):
        for one in of_part:
            place = (one.start, tuple((axis.numel, axis.step) for axis in one.axes))
            owned, owner = owners.setdefault(place, (one, part))
            if owner is not part:
                first, other = _content(owned, owner.recipe), _content(one, part.recipe)
                replicas.append(Replica(name=name, first=first, other=other, holders=(owner.holder, part.holder)))
    chosen = sorted(owners.values(), key=lambda pair: pair[0].start)
    tile([one for one, _ in chosen], numel)
    return _simplest(numel, tuple(one for one, _ in chosen), tuple(part.recipe for _, part in chosen))


def _simplest(numel: int, boxes: tuple[Box, ...], recipes: tuple[Recipe, ...]) -> Recipe:
    """The recipe itself where it is all there is."""
    if len(boxes) == 1 and recipes[0].numel == numel and boxes[0].part_start == 0 and _is_identity(boxes[0]):
        return recipes[0]
    return Joined(numel, boxes, recipes)


def _content(one: Box, recipe: Recipe) -> Recipe:
    """The elements of a box, laid end to end."""
    steps = row_major([axis.numel for axis in one.axes])
    axes = tuple(Axis(axis.numel, step, axis.part_step) for axis, step in zip(one.axes, steps, strict=True))
    packed = Box(start=0, part_start=one.part_start, axes=axes)
    return _simplest(one.numel, (packed,), (recipe,))


def _is_identity(one: Box) -> bool:
    return all(axis.step == axis.part_step for axis in one.axes)
