"""A second check of a merge: what was written is compared with W + delta, recomputed from the sources by other code.

Between writing and publishing, some rows of some merged tensors are read back from the staged files. Which parameters
belong to them is told by their stored names alone (`factors.py`), the scale by adapter_config.json, the weight below by
the base's file, and the formula in float64 (`formulas.py`) tells what must stand there. Nothing of the plan is asked,
so an adapter that was put on the wrong weight, a factor taken for another, or a wrong scale does not get out.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from ...adapters.merge import BY_FORMULA
from ...archive.json_file import read_json
from ...archive.model_config import has_config
from ...dtypes import DType
from ...errors import WitnessMismatch, at
from ...plan.computed import Computed
from ...plan.pieces import View
from ...plan.witness import spread
from ...run.inputs import Inputs
from ...transforms.averaged import Averaged
from . import formulas
from .expert_stacks import expert_matrices
from .factors import pairs
from .merge_sources import MergeSources
from .merged_tensor import MergedTensor, Sample, as_written, mean_of, rows_of, whole
from .peft_probe import Prober

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from ...archive.located import LocatedTensor
    from ...opening.opened import Opened
    from ...plan.build import ModelPlan, Source
    from ...plan.pieces import Recipe

    Floats = NDArray[np.float64]

MOST_TENSORS = 32
"""So many tensors of each kind are compared: large models have hundreds, which differ only in their layer."""
MOST_ROWS = 8
"""So many rows of each tensor are compared, evenly spread."""
MOST_NUMEL = 1 << 20
"""Where every element would have to be read, larger weights are not compared."""
_ROUNDING = {DType.F32: (2.0**-24, 0.0), DType.F64: (2.0**-24, 0.0), DType.BF16: (2.0**-8, 0.0),
             DType.F16: (2.0**-11, 2.0**-25)}  # fmt: skip
"""dtype -> (relative rounding of an element, its smallest absolute rounding). In float64, PEFT rounds the product of
the factors to float32 first."""
_BY_PEFT = 8
"""PEFT's own merges in float32 may be off by this many times more: they multiply more often."""


def recompute(
    plan: ModelPlan,
    members: Sequence[Opened],
    staged: Callable[[str], str],
    *,
    base: str | None,
    adapters: Sequence[Mapping[str, str]],
    weights: Sequence[float] = (1.0,),
) -> tuple[int, int]:
    """(how many merged tensors were recomputed and found right, how many there are).

    `members`: the checkpoints, of which a mean with these `weights` was taken if they are several. `staged`: the path
    of a staged file. `base`: directory of the original model. `adapters`: of each member, name -> its
    adapter_config.json, in the order in which they were merged. Raises WitnessMismatch.
    """
    planned = {tensor.name: tensor for tensor in plan.tensors() if _is_computed(tensor.recipe)}
    if not planned or not all(adapters):
        return 0, len(planned)
    count = 0
    merges: list[dict[str, MergedTensor]] = []
    with Inputs() as inputs:
        for opened, files in zip(members, adapters, strict=True):
            configs = {name: read_json(file) for name, file in files.items()}
            held = MergeSources(plan, opened, staged, base, configs, planned)
            found = _merges(held, opened.catalog.origin.root, base, configs, files)
            merges.append({merge.name: merge for merge in found})
        for merge in _sample(list(merges[-1].values())):
            if all(merge.name in each for each in merges):
                with at(merge.name):
                    count += _agrees([each[merge.name] for each in merges], weights, inputs)
        if len(members) == 1:
            matrices = expert_matrices(planned, held.wrapped, configs, held.base, held.written)
            for matrix in spread(list(matrices), MOST_TENSORS):
                with at(matrix.name):
                    rows = matrix.rows(inputs)
                    count += rows is not None and _judge(matrix.written, Sample(*rows))
    return count, len(planned)


def _is_computed(recipe: Recipe) -> bool:
    """Whether anything but a mean of copies is computed in it."""
    if isinstance(recipe, Averaged):
        return any(_is_computed(part) for part in recipe.parts)
    return isinstance(recipe, Computed) or any(_is_computed(part) for part in getattr(recipe, "of", ()))


def _merges(
    held: MergeSources,
    root: str,
    base: str | None,
    configs: Mapping[str, Mapping[str, Any]],
    files: Mapping[str, str],
) -> Iterator[MergedTensor]:
    written, by_module = held.written, held.factors
    parameters = [f"{module}.{parameter}" for module in by_module for parameter in ("weight", "bias")]
    model = next((d for d in (root, base) if d is not None and has_config(d)), "")
    for path, name in pairs(parameters, held.planned).items():
        module, _, parameter = path.rpartition(".")
        chosen = {adapter: by_module[module][adapter] for adapter in configs if adapter in by_module[module]}
        before: dict[str, Recipe] = {}
        for kind in ("weight", "bias"):
            other = f"{name.rpartition('.')[0]}.{kind}"
            saved, there = held.own.get(f"{module}.{kind}"), held.base.get(other)
            is_trained = saved is not None and saved.role == "trainable"
            if there is not None and not is_trained and other in written and there.shape == written[other].shape:
                before[kind] = View(there)
            elif saved is not None:
                before[kind] = held.with_added_rows(there, saved)
        below = before.get(parameter)
        alone = bool(chosen) and module not in held.shared
        if alone and below is not None and below.dtype.is_floating and below.numel == written[name].numel:
            yield MergedTensor(
                name=name, module=module, parameter=parameter, adapters=chosen, written=written[name], base=before,
                configs={adapter: configs[adapter] for adapter in chosen}, is_turned=held.is_conv1d(module),
                settings={adapter: (model, os.path.dirname(files[adapter])) for adapter in chosen},
            )  # fmt: skip


def _one(held: Mapping[str, Source], key: str) -> Source | None:
    """A parameter that is one itself, or the weight of a module of that name."""
    return held.get(key) or held.get(f"{key}.weight")


def _sample(merges: Sequence[MergedTensor]) -> Iterator[MergedTensor]:
    """Some of each kind, evenly spread."""
    kinds: dict[tuple[object, ...], list[MergedTensor]] = {}
    for merge in merges:
        kinds.setdefault(merge.kind, []).append(merge)
    for held in kinds.values():
        count = min(len(held), MOST_TENSORS)
        yield from (held[number * len(held) // count] for number in range(count))


def _agrees(several: Sequence[MergedTensor], weights: Sequence[float], inputs: Inputs) -> bool:
    """Whether the sample decides. `several`: the tensor in each model of which the mean was taken. Raises
    WitnessMismatch."""
    found = [sample for merge in several if (sample := _sampled(merge, inputs)) is not None]
    if len(found) < len(several) or len({sample.expected.shape for sample in found}) > 1:
        return False
    return _judge(
        several[-1].written, found[0] if len(found) == 1 else mean_of(found, weights, several[-1].written.dtype)
    )


def _sampled(merge: MergedTensor, inputs: Inputs) -> Sample | None:
    """Some of a merged tensor, as it was written and as it should be; None if there is no second way to it."""
    if any(config.get("peft_type") not in BY_FORMULA for config in merge.configs.values()):
        return _answered(merge, inputs)
    if merge.name.endswith(".bias"):
        return _of_bias(merge, inputs)
    tokens = {name: held["trainable_tokens_delta"] for name, held in merge.adapters.items()
              if "trainable_tokens_delta" in held}  # fmt: skip
    if tokens:
        return _of_tokens(merge, tokens, inputs) if len(merge.adapters) == 1 else None
    lengths = [its for held in merge.adapters.values() if (its := _one(held, "lora_magnitude_vector")) is not None]
    if lengths and len(merge.adapters) > 1:
        return None  # each is of what the others have left
    shape = merge.written.shape
    rows: Sequence[int] = range(shape[0])
    by_row = False
    if lengths:
        ((adapter, held),) = merge.adapters.items()
        turned = merge.is_turned or bool(merge.configs[adapter].get("fan_in_fan_out")) or "lora_embedding_A" in held
        by_row = shape[0] == lengths[0].recipe.numel and not turned
        if not by_row and merge.written.numel > MOST_NUMEL:
            return None
    if by_row or not lengths:
        rows = sorted({number * (shape[0] - 1) // max(MOST_ROWS - 1, 1) for number in range(MOST_ROWS)})
    # PEFT merges in a model that is loaded in the dtype of the output.
    base = as_written(rows_of(merge.base[merge.parameter], shape, rows, inputs), merge.written.dtype)
    change, size = np.zeros_like(base), np.abs(base)
    for adapter, held in merge.adapters.items():
        found = _change(merge, adapter, held, rows, inputs)
        if found is None:
            return None
        change, size = change + found[0], size + found[1]
    expected = base + change
    if lengths:
        magnitude = whole(lengths[0], inputs).ravel()
        expected, factor = formulas.turned_to_length(expected, magnitude, rows, by_row=by_row)
        size = size * factor + np.abs(expected)
    written = rows_of(View(merge.written), shape, rows, inputs)
    return Sample(written, expected, base, size, is_coherent=bool(lengths))


def _answered(merge: MergedTensor, inputs: Inputs) -> Sample | None:
    """What PEFT merged, against what it answers unmerged."""
    for held in merge.adapters.values():
        trained = held.get(f"ln_tuning_layers.{merge.parameter}")
        if trained is not None:  # a norm that is trained as a whole
            shape = (1, merge.written.numel)
            base, expected, written = (
                rows_of(recipe, shape, [0], inputs)
                for recipe in (merge.base[merge.parameter], trained.recipe, View(merge.written))
            )
            return Sample(written, expected, base, np.abs(expected))
    found = inputs.resource(Prober, Prober).probed(merge, inputs)
    if found is None:
        return None
    written, expected, base = found
    size = np.broadcast_to(np.abs(expected).max(axis=1, keepdims=True), expected.shape)
    rounded = as_written(base, merge.written.dtype)
    return Sample(written, rounded + (expected - base), rounded, size, is_coherent=True, slack=_BY_PEFT)


def _change(
    merge: MergedTensor, adapter: str, held: Mapping[str, Source], rows: Sequence[int], inputs: Inputs
) -> tuple[Floats, Floats] | None:
    """(what one adapter adds to some rows, how large the terms of its sums are)."""
    config = merge.configs[adapter]
    embeds = "lora_embedding_A" in held
    keys = ("lora_embedding_A", "lora_embedding_B") if embeds else ("lora_A", "lora_B")
    first, second = (_one(held, key) for key in keys)
    if first is None or second is None:
        return None
    a, b = whole(first, inputs), whole(second, inputs)
    turned = embeds or merge.is_turned or bool(config.get("fan_in_fan_out"))
    factor = formulas.scale(config, merge.module, a.shape[0])
    change, terms = (
        formulas.product(one, other, merge.written.shape, rows, turned=turned)
        for one, other in ((a, b), (np.abs(a), np.abs(b)))
    )
    return None if change is None or terms is None else (factor * change, factor * terms)


def _of_bias(merge: MergedTensor, inputs: Inputs) -> Sample | None:
    """`lora_bias`: s times the adapter's bias is added to the module's."""
    of_module = rows_of(merge.base[merge.parameter], (1, merge.written.numel), [0], inputs)
    base = as_written(of_module, merge.written.dtype)
    change = np.zeros_like(base)
    for adapter, held in merge.adapters.items():
        a = _one(held, "lora_A")
        if "lora_B.bias" not in held or a is None:
            return None
        rank = a.shape[0]
        change += formulas.scale(merge.configs[adapter], merge.module, rank) * whole(held["lora_B.bias"], inputs)
    written = rows_of(View(merge.written), base.shape, [0], inputs)
    return Sample(written, base + change, base, np.abs(base) + np.abs(change))


def _of_tokens(merge: MergedTensor, tokens: Mapping[str, Source], inputs: Inputs) -> Sample | None:
    """Rows that were trained for themselves stand in the places of those they were."""
    ((adapter, source),) = tokens.items()
    config = merge.configs[adapter]
    indices = config.get("trainable_token_indices") or config.get("token_indices")
    if isinstance(indices, dict):
        indices = next((its for end, its in indices.items() if f".{merge.module}".endswith(f".{end}")), None)
    if set(merge.adapters[adapter]) != {"trainable_tokens_delta"} or not isinstance(indices, list):
        return None
    trained = whole(source, inputs)
    taken = list(range(min(len(indices), len(trained), MOST_ROWS)))
    rows = [int(indices[number]) for number in taken]
    written = rows_of(View(merge.written), merge.written.shape, rows, inputs)
    base = as_written(rows_of(merge.base["weight"], merge.written.shape, rows, inputs), merge.written.dtype)
    return Sample(written, trained[taken], base, np.abs(trained[taken]))


def _judge(tensor: LocatedTensor, sample: Sample) -> bool:
    rounding = _ROUNDING.get(tensor.dtype)
    if rounding is None:
        return False
    written, base, size = sample.written, sample.base, sample.size
    expected = as_written(sample.expected, tensor.dtype)
    # What became infinite in both is told as a warning, and what was NaN from the beginning is so.
    same = ~np.isfinite(written) & ((written == expected) | (np.isnan(written) & np.isnan(expected)))
    written, expected, base, size = (np.where(same, 0, values) for values in (written, expected, base, size))
    told, wrong = formulas.contradiction(
        written, expected, base, size, rounding, is_coherent=sample.is_coherent, slack=sample.slack
    )
    if wrong:
        raise WitnessMismatch(
            f"the merged weight is wrong: {wrong}",
            consequence="some of its values, computed a second time from base and adapter, came out different; no "
            "output was written",
            remedy="this is a bug in zeroconsolidate, please report it; --no-check writes it anyway",
        )
    return told
