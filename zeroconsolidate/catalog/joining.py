"""`universal_checkpoint_info` and the ranks' tensors -> how the tensors of tensor-parallel ranks join."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..archive.names import file_name
from ..errors import Disagreement, UnsupportedLayout, at
from . import tensor_parallel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .contents import Contents
    from .facts import Part, Shape
    from .rules import Join


def joins_of(contents: Contents, parts: tuple[Part, ...], tied: Mapping[str, str]) -> dict[str, Join]:
    """How the tensors of tensor-parallel ranks join. Patterns know the names that the optimizer uses."""
    info = contents.first.universal
    if not info:
        with at(file_name(contents.first.file)):
            raise UnsupportedLayout(
                f"the model is split over {contents.grid.tp} tensor-parallel ranks, and no 'universal_checkpoint_info' "
                "says how its tensors are put together"
            )
    for models in contents.models.values():
        if models[0].universal != info:
            with at(file_name(models[0].file)):
                raise Disagreement("'universal_checkpoint_info' differs from that of model-parallel rank 0")
    back = {name: alias for alias, name in tied.items()}
    shapes: dict[str, dict[int, Shape]] = {}
    for part in parts:
        held: dict[str, Shape] = {member.name: member.shape for group in part.groups for member in group.members}
        if contents.universal is None:
            held |= {name: tensor.shape for masters in part.masters for name, tensor in masters.items()}
        held |= {name: frozen.shape for name, frozen in part.frozen.items()}
        for name, shape in held.items():
            shapes.setdefault(name, {})[part.index] = shape
    asked = {}
    for name, by_part in shapes.items():
        if len(by_part) != contents.grid.tp:
            with at(name):
                raise Disagreement(
                    f"only tensor-parallel ranks {sorted(by_part)} of {contents.grid.tp} have the tensor"
                )
        asked[back.get(name, name)] = [by_part[index] for index in range(contents.grid.tp)]
    with at(file_name(contents.first.file)):
        joins = tensor_parallel.joins(info, asked, asked, contents.grid.tp)
    return {tied.get(name, name): join for name, join in joins.items()}


def doubts_of(contents: Contents, joins: Mapping[str, Join]) -> tuple[str, ...]:
    """Tensors that are in no list, where the lists are of a version that does not name all replicated ones."""
    if contents.grid.tp == 1:
        return ()
    return tuple(
        name for name, join in joins.items() if join.is_default and tensor_parallel.is_terse(contents.first.universal)
    )
