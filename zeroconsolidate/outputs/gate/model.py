"""A model on disk -> where its names and shapes are not those that its class, or the base model, expects."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ...archive.model_config import read_config
from ...archive.model_files import CONFIG
from ...archive.phrases import counted
from ...archive.weights import read_weights
from ...errors import DamagedFile, ZeroConsolidateError
from ...naming.asking import architecture, every_class
from ...naming.decision import VALUE_HEAD
from ...naming.expectation import Expectation
from ...naming.shared import tied_together
from ...naming.sources import NameSources, in_table
from ..config_check import config_problems
from .finding import Finding, GateResult, Kind
from .quantized import dense, problems, quantization_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ...archive.located import LocatedTensor
    from ...archive.weights import Weights
    from .quantized import Held, Quantization

_NOT_PARAMETERS = (
    ".inv_freq", ".position_ids", "position_ids", ".masked_bias", ".attn.bias", ".attention.bias", ".token_type_ids",
    ".num_batches_tracked",
)  # fmt: skip
"""Buffers that older releases of transformers saved and newer ones compute: a loader passes them by."""
_SHOWN = 3


def examine(directory: str, weights: Weights, base: str | None, *, remember: bool) -> GateResult:
    """Names, shapes and dtypes of the headers against what a loader of this directory expects."""
    problems, checks = config_problems(directory, weights.tensors)
    by_config = GateResult(
        findings=tuple(Finding(kind=Kind.MISSING if p.is_lack else Kind.CONFIG, text=p.text) for p in problems),
        checked=tuple(checks),
    )
    quantization = quantization_of(directory)
    confirmed = None if quantization is not None else _confirmed(directory, weights.tensors)
    if confirmed is not None:
        return GateResult.all_of([confirmed, by_config])
    # Of a quantized model it must be known which layers are linear, which the built-in table does not say.
    found, why = architecture(directory, remember=remember)
    linears = {} if found is None else found.linears_in_files()
    by_scales = _scales(weights.tensors, quantization, linears)
    by_config = GateResult.all_of([by_config, by_scales])
    if found is not None:
        several = [found, *(every_class(directory) if _lacks_class(directory) else ())]
        expected = [each for one in several for each in (one.expectation, one.hub)]
        candidates = [_compare(dense(weights.tensors, each.shapes, quantization), each) for each in expected]
        # A file has the hub's names, or with `--names in-memory` those that transformers 5 has in memory.
        by_names = min(candidates, key=lambda result: len(result.findings))
        if by_names.findings and by_config.findings:
            # Both say the same, one of them in the config's own words.
            return GateResult.all_of([by_config, by_names])
        return GateResult.all_of([by_names, by_config])
    if base is not None:
        known = _of_base(base)
        if known is not None:
            held = dense(weights.tensors, known.shapes, quantization)
            return GateResult.all_of([_compare(held, known), by_config])
    unchecked = GateResult(unchecked=(f"names: {why}",))
    quantized = _integers(weights.tensors) if not _is_quantized(directory) else []
    doubtful = GateResult(findings=tuple(_dtype_finding(name, weights.tensors[name]) for name in quantized[:_SHOWN]))
    return GateResult.all_of([by_config, doubtful, unchecked])


def _confirmed(directory: str, tensors: Mapping[str, LocatedTensor]) -> GateResult | None:
    """What the built-in table says, if these are exactly the names that it has: then transformers is not started."""
    known = in_table(directory)
    for expected in () if known is None else (known.expectation, known.hub):
        result = _compare(tensors, expected)
        if not result.findings and tensors.keys() <= expected.shapes.keys():
            return result
    return None


def _scales(
    tensors: Mapping[str, LocatedTensor], quantization: Quantization | None, linears: Mapping[str, str]
) -> GateResult:
    if quantization is None:
        return GateResult()
    found = tuple(problems(tensors, quantization, linears))
    count = sum(name.endswith((".weight_scale", ".weight_scale_inv")) for name in tensors)
    return GateResult(
        findings=found[:_SHOWN], checked=() if found else (f"scales of {counted(count, 'quantized weight')}",)
    )


def _compare(tensors: Mapping[str, Held], expected: Expectation) -> GateResult:
    """Every expected parameter there once, in its shape, in floating point where the loader has floating point."""
    tied = tied_together(expected.ties)
    missing = [name for name in expected.shapes if name not in tensors and tied.get(name, set()).isdisjoint(tensors)]
    unexpected = [name for name in tensors if name not in expected.shapes and name not in expected.ties]
    extra = [name for name in unexpected if name.startswith(VALUE_HEAD)]
    ignored = [name for name in unexpected if name not in extra and not name.endswith(_NOT_PARAMETERS)]
    mismatched = [
        name
        for name, shape in expected.shapes.items()
        if shape is not None and name in tensors and tensors[name].shape != shape
    ]
    integers = [
        name
        for name, tensor in tensors.items()
        if name in expected.shapes and name not in expected.integers and not tensor.dtype.is_floating
    ]
    findings = [
        *_findings(Kind.MISSING, missing, f"{expected.origin} expects {{}}, which is in no file: it would be random"),
        *_findings(Kind.UNEXPECTED, ignored, f"{{}} would be ignored: {expected.origin} has no such parameter"),
        *(
            Finding(
                kind=Kind.SHAPE,
                text=f"{name} has the shape {list(tensors[name].shape)}; {expected.origin} expects "
                f"{list(expected.shapes[name] or ())}",
            )
            for name in mismatched[:_SHOWN]
        ),
        *(_dtype_finding(name, tensors[name]) for name in integers[:_SHOWN]),
    ]
    return GateResult(
        findings=tuple(findings),
        checked=(f"names and shapes {'against' if findings else 'match'} {expected.origin}",),
        extra=tuple(extra),
    )


def _findings(kind: Kind, names: Sequence[str], text: str) -> list[Finding]:
    """One for all names of a kind: the first of them, and how many more there are."""
    if not names:
        return []
    more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    return [Finding(kind=kind, text=text.format(f"{names[0]}{more}"))]


def _dtype_finding(name: str, tensor: Held) -> Finding:
    return Finding(
        kind=Kind.DTYPE,
        text=f"{name} holds integers ({tensor.dtype.torch_name}) where a loader expects floating-point numbers: "
        "quantized weights whose scale is not there",
    )


def _integers(tensors: Mapping[str, LocatedTensor]) -> list[str]:
    """Weights that are whole numbers: matrices of them are quantized, whatever the model."""
    return [
        name
        for name, tensor in tensors.items()
        if not tensor.dtype.is_floating and len(tensor.shape) > 1 and name.endswith(".weight") and tensor.numel
    ]


def _lacks_class(directory: str) -> bool:
    return NameSources(directory, None).lacks_class


def _is_quantized(directory: str) -> bool:
    try:
        config = read_config(os.path.join(directory, CONFIG))
    except (DamagedFile, OSError):
        return False
    return isinstance(config, dict) and bool(config.get("quantization_config"))


def _of_base(base: str) -> Expectation | None:
    """The base model's own names and shapes: what was merged into it has the same."""
    try:
        tensors = read_weights(base).tensors
    except ZeroConsolidateError:
        return None
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    integers = frozenset(name for name, tensor in tensors.items() if not tensor.dtype.is_floating)
    return Expectation(origin=f"the base model {base}", shapes=shapes, ties={}, exact=False, integers=integers)
