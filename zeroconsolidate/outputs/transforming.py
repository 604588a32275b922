"""Options -> the transformations that are applied to the named tensors of a model, and what they make of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import BadOption
from ..naming.sources import NameSources
from ..run.reader import reader
from ..transforms.transform import Model, Transform, transformed

if TYPE_CHECKING:
    from ..dtypes import DType
    from ..naming.fit import Named
    from ..opening.opened import Opened
    from ..options import Options


def chain_of(options: Options) -> tuple[Transform, ...]:
    """What is applied, in this order, when tensors have the names that they are written under. Adapters were merged and
    means were taken before; the cast comes last. Raises BadOption for what is no Transform."""
    for step in options.transforms:
        if not isinstance(step, Transform):
            raise BadOption("transforms are objects of zeroconsolidate.Transform", found=type(step).__name__)
    return tuple(step for step in options.transforms if isinstance(step, Transform))


def apply(named: Named, opened: Opened, options: Options, dtype: DType) -> tuple[Named, Model | None]:
    """(the tensors that are written, the model as the transformations leave it; None without any).

    Raises what :func:`.transform.transformed` raises, and BadOption for tensors that nothing can read.
    """
    chain = chain_of(options)
    if not chain:
        return named, None
    sources = NameSources(opened.catalog.origin.root, options.base_directory, options.set_config)
    config = sources.config if isinstance(sources.config, dict) else {}
    model = transformed(Model(tensors=named.selection.named, config=config, dtype=dtype), chain)
    for name, source in model.tensors.items():
        kind = type(source.recipe)
        if not source.recipe.is_copied and reader.dispatch(kind) is reader.dispatch(object):
            raise BadOption(
                f"nothing can read {kind.__name__}: no reader is registered for it",
                remedy=f"zeroconsolidate.run.reader.reader.register({kind.__name__}, its reader)",
                address=(name,),
            )
    return replace(named, selection=replace(named.selection, named=model.tensors)), model


def refuse_on_adapters(options: Options) -> None:
    """An adapter is written as PEFT saves it. Raises BadOption."""
    if options.transforms:
        raise BadOption("transformations are of models, not of adapters", remedy="add --lora merge")


def refuse_without_config(model: Model | None, *, has_config: bool) -> None:
    """There must be a config.json to set fields of. Raises BadOption."""
    if model is not None and model.fields and not has_config:
        raise BadOption(
            f"there is no config.json to set {', '.join(model.fields)} in", remedy="add one with --base DIR"
        )
