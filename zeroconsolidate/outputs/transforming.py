"""Options -> the transformations that are applied to the named tensors of a model, and what they make of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import BadOption
from ..integrations.packages import need_transformers
from ..naming.sources import NameSources
from ..run.reader import reader
from ..transforms.transform import Model, Transform, transformed

if TYPE_CHECKING:
    from ..dtypes import DType
    from ..naming.fit import Named
    from ..opening.opened import Opened
    from ..options import Options


def chain_of(options: Options, sources: NameSources) -> tuple[Transform, ...]:
    """What is applied, in this order, when tensors have the names that they are written under: the caller's own steps,
    then quantization. Adapters were merged and means were taken before; the cast comes last.

    Raises BadOption for what is not a Transform, and where it is not known what can be quantized; MissingPackage where
    transformers cannot be asked.
    """
    for step in options.transforms:
        if not isinstance(step, Transform):
            raise BadOption("transforms are objects of zeroconsolidate.Transform", found=type(step).__name__)
    own = [step for step in options.transforms if isinstance(step, Transform)]
    return (*own, *([_quantize(options.quantize, options, sources)] if options.quantize is not None else []))


def _quantize(scheme: str, options: Options, sources: NameSources) -> Transform:
    from ..transforms.quantize import Quantize

    if options.names == "stored" or options.rename is not None:
        raise BadOption(
            "a loader finds quantized weights only under the names that it expects",
            found="--names stored" if options.names == "stored" else "--rename",
        )
    need_transformers("quantizing", "it says which layers are linear")
    known = sources.architecture
    if known is None:
        raise BadOption(f"which layers are linear is not known: {sources.unasked}")
    in_memory = {name: name for name in known.linears}
    return Quantize(
        scheme, in_memory if options.names == "in-memory" else known.linears_in_files(), options.quantize_skip
    )


def apply(
    named: Named, opened: Opened, options: Options, dtype: DType, *, class_name: str = ""
) -> tuple[Named, Model | None]:
    """(the tensors that are written, the model as the transformations leave it; None without any). `class_name`: of the
    model, where config.json may say something else.

    Raises what :func:`.transform.transformed` raises, and BadOption for tensors that nothing can read.
    """
    if not (options.transforms or options.quantize):
        return named, None
    sources = NameSources(
        opened.catalog.origin.root,
        options.base_directory,
        options.set_config,
        task=class_name or named.class_name or None,
        remember=options.cache,
    )
    chain = chain_of(options, sources)
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
    if options.transforms or options.quantize:
        what = "transformations are" if options.transforms else "--quantize is"
        raise BadOption(f"{what} for models, not for adapters", remedy="add --lora merge")


def refuse_without_config(model: Model | None, *, has_config: bool) -> None:
    """There must be a config.json to set fields of. Raises BadOption."""
    if model is not None and model.fields and not has_config:
        raise BadOption(
            f"there is no config.json to set {', '.join(model.fields)} in", remedy="add one with --base DIR"
        )
