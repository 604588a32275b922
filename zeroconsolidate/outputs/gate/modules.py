"""The modules of a sentence-transformers model on disk, each compared with its own config.

Without a file of weights, or with one of other names, sentence-transformers gives a module random weights or leaves it
as it was built, and does not always say so (`base/modules/module.py`, `load_torch_weights`: strict=False).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ...archive.json_file import read_json
from ...archive.model_files import CONFIG
from ...archive.weights import read_weights
from ...errors import ZeroConsolidateError
from . import model as gate_model
from .finding import Finding, GateResult, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ...catalog.facts import Shape
    from ..modules import Module


def _dense(config: Mapping[str, Any]) -> dict[str, Shape]:
    """`base/modules/dense.py`."""
    inside, outside = config["in_features"], config["out_features"]
    found: dict[str, Shape] = {"linear.weight": (outside, inside)}
    if config.get("bias", True):
        found["linear.bias"] = (outside,)
    if config.get("use_residual") and inside != outside:
        found["residual.weight"] = (outside, inside)
    return found


def _layer_norm(config: Mapping[str, Any]) -> dict[str, Shape]:
    """`sentence_transformer/modules/layer_norm.py`."""
    return {"norm.weight": (config["dimension"],), "norm.bias": (config["dimension"],)}


_EXPECTED: dict[str, Callable[[Mapping[str, Any]], dict[str, Shape]]] = {"Dense": _dense, "LayerNorm": _layer_norm}
_WITHOUT_WEIGHTS = ("Pooling", "Normalize", "Dropout", "SpladePooling", "BoW", "LogitScore")


def examine(directory: str, modules: Sequence[Module], *, remember: bool) -> GateResult:
    """Compare every module in a folder of its own with its config."""
    folders = {module.folder: module for module in modules if module.folder}
    return GateResult.all_of(
        [_one(os.path.join(directory, folder), module, remember=remember) for folder, module in folders.items()]
    )


def _one(path: str, module: Module, *, remember: bool) -> GateResult:
    if module.kind in _WITHOUT_WEIGHTS:
        return GateResult()
    try:
        weights = read_weights(path)
    except ZeroConsolidateError as error:
        if module.is_transformer or module.kind in _EXPECTED:
            text = f"{module.folder} ({module.kind}) has no weights that can be read, and would be random: {error}"
            return GateResult(findings=(Finding(kind=Kind.MISSING, text=text),))
        return GateResult()
    if module.is_transformer:
        return _in_folder(module.folder, gate_model.examine(path, weights, None, remember=remember))
    if module.kind not in _EXPECTED:
        return GateResult(unchecked=(f"{module.folder}: it is not known which weights a {module.kind} has",))
    try:
        expected = _EXPECTED[module.kind](read_json(os.path.join(path, CONFIG)))
    except (ZeroConsolidateError, KeyError) as error:
        text = f"{module.folder}/{CONFIG} does not describe a {module.kind}: {error}"
        return GateResult(findings=(Finding(kind=Kind.CONFIG, text=text),))
    found = {name: tensor.shape for name, tensor in weights.tensors.items()}
    if found == expected:
        return GateResult(checked=(f"{module.folder}: names and shapes match its {CONFIG}",))
    name = next(name for name in [*expected, *found] if expected.get(name) != found.get(name))
    text = (
        f"{module.folder} ({module.kind}) does not fit its {CONFIG}: {name} is {_shape(expected.get(name))} there, "
        f"and {_shape(found.get(name))} in the weights"
    )
    return GateResult(findings=(Finding(kind=Kind.SHAPE, text=text),))


def _in_folder(folder: str, found: GateResult) -> GateResult:
    return GateResult(
        findings=tuple(Finding(kind=finding.kind, text=f"{folder}: {finding.text}") for finding in found.findings),
        checked=tuple(f"{folder}: {text}" for text in found.checked),
        unchecked=tuple(f"{folder}: {text}" for text in found.unchecked),
    )


def _shape(shape: Shape | None) -> str:
    return "nothing" if shape is None else str(list(shape))
