"""The adapters of a run -> the planned model, with the adapters merged."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..archive.json_file import read_json
from ..archive.model_config import has_config
from ..archive.model_files import CONFIG
from ..archive.phrases import counted, listed
from ..archive.weights import read_weights
from ..errors import UnsupportedLayout, WitnessMismatch, WrongNames, at
from ..integrations.packages import need_peft
from ..plan.build import Selection, select
from ..plan.witness import Comparison, both_ends, spread
from .adapted import Adapted
from .base import agreed, base_remedy
from .beside import Beside, beside_model
from .merge import BY_FORMULA, BY_PEFT, Merger, MergeResult
from .original import Original
from .task import trained_as
from .vocabulary import vocabulary
from .wrapped import collect
from .wrapping import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..catalog.facts import Catalog
    from ..dtypes import DType
    from ..naming.hub_layout import Architecture
    from ..plan.build import Source
    from ..run.inputs import Inputs
    from .find import Adapters
    from .peft_config import PeftConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """A planned merge."""

    selection: Selection
    adapted: Adapted
    beside: Beside
    """What was trained around the model."""


def plan_merge(
    catalog: Catalog,
    stored: Mapping[str, Source],
    adapters: Adapters,
    *,
    base: str | None,
    base_differs: bool,
    dtype: DType | None,
    copy_ties: bool,
    architecture: tuple[Architecture | None, str],
    insisted: bool,
) -> Merge:
    """The model with its adapters merged. `base`: directory of the original model. `base_differs`: it may differ from
    the one that the adapters were trained on. `architecture`: what transformers says of its class, or why it says
    nothing. `insisted`: names that are not expected are written anyway.

    Raises UnsupportedLayout for adapters that cannot be merged, BadOption if weights are not found, WrongNames for
    trained tensors that have no place in the original model, Disagreement for another base or lost rows.
    """
    for name, config in adapters.configs.items():
        with at(f"adapter {name}"):
            _refuse(config)
    named = select(catalog, stored, copy_ties=True, wanted=lambda _name, _source: True).named
    model = collect(named, adapters.parts, adapters.ties, adapters.configs)
    model.beside, beside, unused = beside_model(model.beside, adapters.parts, adapters.ties)
    model.left_out += unused
    agreement = None if base is None else agreed(catalog, adapters, model.tied, base, insisted=base_differs)
    original = _original(base, adapters, model.own, architecture[0])
    directories = _directories(catalog.origin.root, base, adapters)
    merger = Merger(model, adapters.configs, original, dtype, directories, base_remedy(adapters))
    result = merger.result(copy_ties=copy_ties)
    if original is not None and result.unknown and not insisted:
        raise _without_a_place(result.unknown, original, architecture[1])
    tensors = {} if original is None else original.tensors
    tokens = vocabulary(result.selection.named, catalog.origin.root, base, tensors)
    untested = None if result.unproven else agreement
    base_files = () if original is None else dict.fromkeys(tensor.file for tensor in original.tensors.values())
    adapted = Adapted(
        is_adapter=False,
        kinds=adapters.kinds,
        is_wrapped=adapters.is_wrapped,
        config_files={},
        files=(*adapters.files.values(), *base_files),
        adapter_files=adapters.files,
        folders=adapters.present,
        ties=result.ties,
        untied=bool(result.untied),
        trained_as=None
        if original is None or original.target is None or architecture[0] is None
        else trained_as(result.selection.named, architecture[0]),
        comparisons=() if base_differs else _comparisons(result),
        notes=(*_notes(adapters, result, original, model.quantized), *tokens.notes),
        rows=tokens.rows,
        warnings=(
            *(() if agreement is None else agreement.warnings),
            *(() if untested is None else untested.doubts(base or "")),
            *tokens.warnings,
            *beside.warnings,
        ),
        not_checked=() if untested is None else untested.untold(base or ""),
    )
    return Merge(selection=result.selection, adapted=adapted, beside=beside)


def _without_a_place(unknown: Sequence[str], original: Original, unasked: str) -> WrongNames:
    """The error for tensors of the run that a loader of the merged model would not look for."""
    if original.target is not None:
        why = f"{original.target} expects none of them"
    else:
        told = unasked or "its names are not those of its config.json"
        why = f"it is not known whether its class expects them: {told}"
    found = f"{counted(len(unknown), 'trained tensor')} {'has' if len(unknown) == 1 else 'have'} no place"
    return WrongNames(
        f"{found} in the base model {original.directory}: {listed(unknown, 4)}",
        consequence=f"{why}, so a loader would ignore them",
        remedy=("name the model that was trained with --base", "write them anyway with --allow-missing"),
    )


def _refuse(config: PeftConfig) -> None:
    if config.peft_type not in BY_FORMULA and config.peft_type not in BY_PEFT:
        raise UnsupportedLayout(f"adapters of kind {config.peft_type} cannot be merged")
    if config.peft_type in BY_PEFT:
        need_peft(config.peft_type)
    if config.variants:
        raise UnsupportedLayout(f"a LoRA with {', '.join(config.variants)} cannot be merged")


def _directories(root: str, base: str | None, adapters: Adapters) -> tuple[str, str] | None:
    """Where the model's config.json and the adapter's configuration are."""
    model = next((d for d in (root, base) if d is not None and has_config(d)), None)
    return None if model is None else (model, os.path.dirname(next(iter(adapters.files.values()))))


def _original(
    base: str | None, adapters: Adapters, own: Mapping[str, Source], architecture: Architecture | None
) -> Original | None:
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
    return Original(read_weights(base).tensors, base, list(dict.fromkeys([*targets, *own])), architecture)


def _comparisons(result: MergeResult) -> tuple[Comparison, ...]:
    pairs = [pair for pair in result.unproven.items() if pair[1][0].dtype.is_floating and pair[1][1].numel]
    return tuple(
        Comparison(
            name=name,
            master=original,
            copy=copy,
            intervals=both_ends(min(original.numel, copy.numel), everything=False),
        )
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
                "--base-differs merges anyway",
            ),
            address=error.address,
        ) from None


def _notes(
    adapters: Adapters, result: MergeResult, original: Original | None, quantized: Mapping[str, str]
) -> list[str]:
    notes = [f"merged {adapters.kinds} into {counted(result.merged, 'tensor')}"]
    if result.replaced:
        notes.append(f"{counted(result.replaced, 'tensor')} trained in full, in place of the base model's")
    if original is not None:
        held = sorted({tensor.dtype.torch_name for tensor in original.tensors.values()})
        notes.append(f"untrained weights taken from {original.directory} ({', '.join(held)})")
        if original.prefix_note:
            notes.append(original.prefix_note)
        if result.ignored:
            some = listed(result.ignored, 4)
            notes.append(f"not taken from the base model, because {original.target} does not load them: {some}")
    if original is None and result.from_checkpoint:
        stored = ", ".join(sorted(set(result.from_checkpoint.values())))
        notes.append(
            f"untrained weights taken from the checkpoint, where they are {stored}; for the full precision of the "
            "original model, name it with --base"
        )
    elif result.from_checkpoint:
        some = listed(list(result.from_checkpoint), 4)
        notes.append(f"taken from the checkpoint, not from the base model: {some}")
    if result.added_rows:
        dtypes = ", ".join(sorted(set(result.added_rows.values())))
        some = listed(list(result.added_rows), 4)
        notes.append(f"rows that the run added, taken from the frozen copies in the checkpoint ({dtypes}): {some}")
    if quantized:
        notes.append(
            f"the quantized copy of {counted(len(set(quantized.values())), 'weight')} in the checkpoint was not used; "
            f"{counted(len(quantized), 'tensor')} that belong to it are left out"
        )
    if result.untied:
        notes.append(f"no longer tied, so written separately: {', '.join(result.untied)}")
    return notes
