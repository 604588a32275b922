"""The weights of `--base` -> frozen parameters that were left out of the save."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..archive.phrases import listed
from ..plan.build import Source
from .decision import best_mapping
from .expectation import Expectation

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ..archive.located import LocatedTensor
    from ..catalog.facts import Catalog
    from ..plan.build import Selection
    from .expectation import Naming


def missing_frozen(
    catalog: Catalog, stored: Mapping[str, Source], base: Mapping[str, LocatedTensor]
) -> tuple[dict[str, Source], str | None]:
    """The tensors of the base model that the checkpoint does not have under any name, or why they are not used.

    They are used only if the base is the same model: every parameter of the checkpoint is in it, under one of its
    names and in its shape. The checkpoint itself cannot tell: with `exclude_frozen_parameters`, DeepSpeed leaves no
    trace of what it leaves out.
    """
    known = {*catalog.order, *stored, *catalog.unsaved, *catalog.unsaved_ties}
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


def unsaved_in_base(
    catalog: Catalog, stored: Mapping[str, Source], base: Mapping[str, LocatedTensor]
) -> tuple[dict[str, LocatedTensor], str | None]:
    """The base model's tensors for parameters whose values are in no file, by the checkpoint's names; or why they are
    not used.

    Such parameters were not trained: the base has their values, if it is the model that training began with. Trained
    parameters must have the same shapes in it.
    """
    saved = {name: source.shape for name, source in stored.items() if source.role != "buffer"}
    shapes = {
        **{
            name: saved[catalog.ties.get(name, name)] for name in catalog.order if catalog.ties.get(name, name) in saved
        },
        # No tensor has this shape: of these only the names are known, and they have no say in the change of prefix.
        **dict.fromkeys((*catalog.unsaved, *catalog.unsaved_ties), (-1,)),
    }
    known = Expectation(origin="", shapes={name: tensor.shape for name, tensor in base.items()}, ties={}, exact=False)
    names = best_mapping(shapes, catalog.ties, known).mapping
    for name, shape in shapes.items():
        there = base.get(names.get(name, name))
        if there is not None and shape not in ((-1,), there.shape):
            return {}, f"{name} has shape {list(shape)}, in the base model {list(there.shape)}"
    found, missing = {}, []
    for name in catalog.unsaved:
        aliases = (alias for alias, owner in catalog.unsaved_ties.items() if owner == name)
        there = next((base[names[n]] for n in (name, *aliases) if names.get(n) in base), None)
        if there is None:
            missing.append(name)
        else:
            found[name] = there
    if missing:
        return {}, f"the base model has no {listed(missing, 1)}"
    return found, None


def filled(selection: Selection, expected: Expectation, base: Mapping[str, LocatedTensor]) -> dict[str, Source]:
    """Tensors that are `expected`, not in `selection`, and in the base model with the same shape, by output name.

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


def without_parts(selection: Selection, naming: Naming, supplied: Collection[str]) -> tuple[Selection, Naming]:
    """Both without those of the base model that the class which was trained does not have: of T5 with a decoder, say,
    only the encoder may have been trained."""
    if naming.expectation is None or not naming.expectation.exact:
        return selection, naming
    unexpected = set(naming.unexpected)
    dropped = {name: new for name in supplied if (new := naming.mapping.get(name, name)) in unexpected}
    if not dropped:
        return selection, naming
    left = tuple(name for name in naming.unexpected if name not in dropped.values())
    mapping = {name: new for name, new in naming.mapping.items() if name not in dropped}
    kept = selection.only(lambda name, _source: name not in dropped)
    return kept, replace(naming, mapping=mapping, unexpected=left)
