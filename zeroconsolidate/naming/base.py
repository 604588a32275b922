"""The weights of `--base` -> frozen parameters that were left out of the save."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..plan.build import Source
from .decision import best_mapping

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..archive.located import LocatedTensor
    from ..catalog.facts import Catalog
    from ..plan.build import Selection
    from .expectation import Expectation


def missing_frozen(
    catalog: Catalog, stored: Mapping[str, Source], base: Mapping[str, LocatedTensor]
) -> tuple[dict[str, Source], str | None]:
    """The tensors of the base model that the checkpoint has under no name, and why they are not to be used.

    They are used only if the base is the same model: every parameter of the checkpoint is in it, under one of its
    names and in its shape. The checkpoint itself cannot tell: with `exclude_frozen_parameters`, DeepSpeed leaves no
    trace of what it leaves out.
    """
    known = {*catalog.order, *stored}
    new = {name: Source.of_model(name, tensor) for name, tensor in base.items() if name not in known}
    if not new:
        return {}, None
    names: dict[str, list[str]] = {}
    for name in catalog.order:
        names.setdefault(catalog.ties.get(name, name), []).append(name)
    for name, source in stored.items():
        if source.role == "buffer":
            continue
        there = next((base[alias] for alias in names.get(name, [name]) if alias in base), None)
        if there is None:
            return {}, f"the base model has no {name}"
        if there.shape != source.shape:
            return {}, f"{name} has shape {list(source.shape)}, in the base model {list(there.shape)}"
    return new, None


def filled(selection: Selection, expected: Expectation, base: Mapping[str, LocatedTensor]) -> dict[str, Source]:
    """What `expected` names, `selection` lacks, and the base model has in the same shape, by its output name.

    The base model may have been saved with or without the prefix of a head's model.
    """
    shapes = {name: tensor.shape for name, tensor in base.items()}
    there = {new: name for name, new in best_mapping(shapes, {}, expected).mapping.items()}
    tied = {name for pair in expected.ties.items() if not selection.named.keys().isdisjoint(pair) for name in pair}
    found = {}
    for name, shape in expected.shapes.items():
        if name in there and name not in selection.named and name not in tied and shape in (None, shapes[there[name]]):
            found[name] = Source.of_model(there[name], base[there[name]])
    return found
