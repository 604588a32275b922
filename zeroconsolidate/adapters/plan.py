"""From the adapters of a run to planned weights: written for PEFT, or merged into the model they belong to."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..archive.json_file import read_json
from ..archive.model_config import has_config
from ..archive.model_files import ADAPTER_CONFIG, CONFIG
from ..archive.phrases import counted, listed
from ..archive.weights import read_weights
from ..errors import UnsupportedLayout, WitnessMismatch, at
from ..integrations.hub import is_hub_id
from ..plan.build import ModelPlan, Selection, padding_bytes, select
from ..plan.witness import SAMPLED_NUMEL, Comparison, spread
from .export import adapter_files, build_adapters
from .merge import BY_FORMULA, BY_PEFT, Merger, MergeResult
from .original import Original
from .wrapped import collect
from .wrapping import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..catalog.facts import Catalog
    from ..dtypes import DType
    from ..plan.build import Source
    from ..run.inputs import Inputs
    from .find import Adapters
    from .peft_config import PeftConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapted:
    """What goes with the weights of an adapter run."""

    is_adapter: bool
    """Whether the output is one or several PEFT adapters, not a model."""
    is_wrapped: bool
    """Whether the trainer had wrapped something around the PEFT model."""
    config_files: Mapping[str, str]
    """Output name -> path of an adapter's configuration."""
    files: tuple[str, ...]
    """Those outside of the checkpoint's own that decide what is written."""
    folders: tuple[str, ...]
    """Entries of the checkpoint that belong to its adapters."""
    ties: Mapping[str, str]
    """Names that are not written, because their tensor is under another -> that one."""
    untied: bool
    """Whether the model's configuration must say that the embeddings are no longer tied."""
    comparisons: tuple[Comparison, ...]
    """The original model against its frozen copy in the checkpoint."""
    notes: tuple[str, ...]
    """What was decided and why, for the report."""


def plan_export(
    catalog: Catalog, stored: Mapping[str, Source], adapters: Adapters, *, dtype: DType | None
) -> tuple[ModelPlan, Adapted, tuple[str, ...]]:
    """The adapters as PEFT would save them, and warnings. Raises UnsupportedLayout for kinds whose file is computed."""
    named = select(catalog, stored, copy_ties=True, wanted=lambda _name, _source: True).named
    files, outside = adapter_files(named, adapters.parts, adapters.ties, adapters.configs)
    left_out = tuple(
        name
        for name, part in adapters.parts.items()
        if part.adapter is not None and part.adapter not in adapters.configs and name in named
    )
    warnings: tuple[str, ...] = ()
    if outside:
        warnings = (f"trained, but not part of a PEFT adapter, so not written: {listed(outside, 4)}",)
    bases = dict.fromkeys(config.base for config in adapters.configs.values() if config.base)
    adapted = Adapted(
        is_adapter=True,
        is_wrapped=adapters.is_wrapped,
        config_files={os.path.join(file.folder, ADAPTER_CONFIG): adapters.files[file.adapter] for file in files},
        files=tuple(adapters.files.values()),
        folders=adapters.present,
        ties={},
        untied=False,
        comparisons=(),
        notes=(
            f"PEFT adapter {adapters.kinds} for the base model {', '.join(bases) or 'unknown'}; "
            "--lora merge writes a full model",
        ),
    )
    plan = build_adapters(files, left_out=left_out, dtype=dtype, padding_bytes=padding_bytes(catalog))
    return plan, adapted, warnings


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """A planned merge."""

    selection: Selection
    adapted: Adapted


def plan_merge(
    catalog: Catalog,
    stored: Mapping[str, Source],
    adapters: Adapters,
    *,
    base: str | None,
    dtype: DType | None,
    copy_ties: bool,
) -> Merge:
    """The model with its adapters merged. `base`: directory of the original model.

    Raises UnsupportedLayout for adapters that cannot be merged, BadOption if weights are nowhere.
    """
    for name, config in adapters.configs.items():
        with at(f"adapter {name}"):
            _refuse(config)
    named = select(catalog, stored, copy_ties=True, wanted=lambda _name, _source: True).named
    model = collect(named, adapters.parts, adapters.ties, adapters.configs)
    original = _original(base, adapters, model.own)
    directories = _directories(catalog.origin.root, base, adapters)
    merger = Merger(model, adapters.configs, original, dtype, directories, _remedy(adapters))
    result = merger.result(copy_ties=copy_ties)
    base_files = () if original is None else dict.fromkeys(tensor.file for tensor in original.tensors.values())
    adapted = Adapted(
        is_adapter=False,
        is_wrapped=adapters.is_wrapped,
        config_files={},
        files=(*adapters.files.values(), *base_files),
        folders=adapters.present,
        ties=result.ties,
        untied=bool(result.untied),
        comparisons=_comparisons(result),
        notes=tuple(_notes(adapters, result, original)),
    )
    return Merge(selection=result.selection, adapted=adapted)


def _remedy(adapters: Adapters) -> str:
    """How to name the original model: as the adapters' own configurations do, if that leads anywhere from here."""
    recorded = list(dict.fromkeys(config.base for config in adapters.configs.values() if config.base))
    if len(recorded) != 1:
        return "name the original model with --base"
    (base,) = recorded
    if os.path.isdir(base) or is_hub_id(base):
        return f"merge into the model that {ADAPTER_CONFIG} names: --base {shlex.quote(base)}"
    return f"name the original model with --base; {ADAPTER_CONFIG} says {base}, which is no directory here"


def _refuse(config: PeftConfig) -> None:
    if config.peft_type not in BY_FORMULA and config.peft_type not in BY_PEFT:
        raise UnsupportedLayout(f"adapters of kind {config.peft_type} cannot be merged")
    if config.variants:
        raise UnsupportedLayout(f"a LoRA with {', '.join(config.variants)} cannot be merged")


def _directories(root: str, base: str | None, adapters: Adapters) -> tuple[str, str] | None:
    """Where the model's config.json and the adapter's configuration are."""
    model = next((d for d in (root, base) if d is not None and has_config(d)), None)
    return None if model is None else (model, os.path.dirname(next(iter(adapters.files.values()))))


def _original(base: str | None, adapters: Adapters, own: Mapping[str, Source]) -> Original | None:
    if base is None:
        return None
    if has_config(base):
        quantization = read_json(os.path.join(base, CONFIG)).get("quantization_config")
        if quantization:
            method = quantization.get("quant_method") if isinstance(quantization, dict) else None
            raise UnsupportedLayout(
                f"the base model in {base} is quantized ({method or 'quantization_config'})",
                consequence="adapters are merged into weights that are not quantized",
                remedy="name the model it was quantized from with --base",
            )
    targets = [f"{part.module}.weight" for part in adapters.parts.values() if part.kind is Kind.TUNER]
    return Original(read_weights(base).tensors, base, list(dict.fromkeys([*targets, *own])))


def _comparisons(result: MergeResult) -> tuple[Comparison, ...]:
    pairs = [pair for pair in result.unproven.items() if pair[1][0].dtype.is_floating and pair[1][1].numel]
    return tuple(
        Comparison(name=name, master=original, copy=copy, intervals=((0, min(copy.numel, SAMPLED_NUMEL)),))
        for name, (original, copy) in spread(pairs)
    )


def prove_base(comparisons: Sequence[Comparison], inputs: Inputs) -> int:
    """Compare the original model with the frozen copies in the checkpoint; returns how many elements were compared.

    Raises WitnessMismatch: then the adapter was trained on other weights.
    """
    from ..run.witness import compare

    try:
        return compare(comparisons, inputs)
    except WitnessMismatch as error:
        raise WitnessMismatch(
            (
                "the weights in --base are not those the adapter was trained on: they do not round to "
                "the frozen copy in the checkpoint"
            ),
            remedy=(
                "name the model it was trained on, or leave --base out to merge into the frozen copy",
                "--no-check merges anyway",
            ),
            address=error.address,
        ) from None


def _notes(adapters: Adapters, result: MergeResult, original: Original | None) -> list[str]:
    notes = [f"merged {adapters.kinds} into {counted(result.merged, 'tensor')}"]
    if result.replaced:
        notes.append(f"{counted(result.replaced, 'tensor')} trained in full, in place of the base model's")
    if original is not None:
        held = sorted({tensor.dtype.torch_name for tensor in original.tensors.values()})
        notes.append(f"untrained weights taken from {original.directory} ({', '.join(held)})")
        if original.prefix_note:
            notes.append(original.prefix_note)
    if original is None and result.from_checkpoint:
        stored = ", ".join(sorted(set(result.from_checkpoint.values())))
        notes.append(
            f"untrained weights taken from the checkpoint, where they are {stored}; for the full precision of the "
            "original model, name it with --base"
        )
    elif result.from_checkpoint:
        some = listed(list(result.from_checkpoint), 4)
        notes.append(f"not taken from the base model but from the checkpoint: {some}")
    if result.untied:
        notes.append(f"no longer tied, so written separately: {', '.join(result.untied)}")
    return notes
