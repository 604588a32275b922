"""Weights and a checkpoint -> where they differ, byte for byte."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..archive.phrases import counted
from ..errors import ZeroConsolidateError
from ..plan.pieces import View
from ..plan.witness import Comparison
from ..run.compare import differences
from .subset import choose

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..archive.weights import Weights
    from ..options.share import Share
    from ..plan.layout import TensorPlan
    from ..run.inputs import Inputs
    from .findings import Findings


def audit_against(
    weights: Weights,
    planned: Mapping[str, TensorPlan],
    may_lack: frozenset[str],
    inputs: Inputs,
    findings: Findings,
    *,
    others: Sequence[Inputs] = (),
    share: Share | None = None,
) -> None:
    """Compare every tensor in `weights` with the planned one of that name, cast to the dtype it was written in.

    `may_lack`: planned names that an output may leave out, because it has the same parameter under another name.
    `others`: inputs for a further thread each. `share`: how much is to be read; names, shapes and dtypes are compared
    of all.
    """
    subset = choose({name: each.numel * each.dtype.itemsize for name, each in weights.tensors.items()}, share)
    findings.files = len(weights.files)
    findings.tensors = len(weights.tensors)
    wrong, comparisons = dict[str, str](), list[Comparison]()
    for name, tensor in weights.tensors.items():
        plan = planned.get(name)
        findings.compared[name] = "!"
        if plan is None:
            findings.compared[name] = "+"
            wrong[name] = "the checkpoint has no such tensor"
            continue
        if tensor.shape != plan.shape:
            wrong[name] = f"the shape differs; expected {list(plan.shape)}, got {list(tensor.shape)}"
            continue
        written, made = tensor.dtype, plan.recipe.dtype
        if written is not made and not (written.is_floating and made.kind.startswith("float")):
            wrong[name] = f"the dtype differs; expected {made.code}, got {written.code}"
            continue
        if name not in subset:
            findings.compared[name] = "?"
            continue
        comparisons.append(Comparison(name=name, master=plan.recipe, copy=View(tensor), intervals=((0, plan.numel),)))
    compared = 0
    for comparison, found in differences(comparisons, inputs, others=others, progress=findings.read):
        name = comparison.name
        if isinstance(found, ZeroConsolidateError):
            wrong[name] = str(found)
            continue
        compared += comparison.numel
        findings.compared[name] = "=" if found is None else "*"
        if found is not None:
            index = _unravel(found.index, planned[name].shape)
            wrong[name] = f"differs first at element {index}; expected {found.expected!r}, got {found.got!r}"
    findings.problems += [f"{name}: {wrong[name]}" for name in weights.tensors if name in wrong]
    lacking = [name for name in planned if name not in weights.tensors and name not in may_lack]
    findings.problems += [f"{name}: the output has no such tensor" for name in lacking]
    findings.compared |= dict.fromkeys(lacking, "-")
    subset.tell(findings, "tensor")
    findings.checks.append(f"{counted(compared, 'value')} against the checkpoint, byte for byte")


def work_bytes(weights: Weights, planned: Mapping[str, TensorPlan], share: Share | None = None) -> int:
    """How many bytes `audit_against` will read, for a progress bar."""
    total = sum(
        tensor.numel * (tensor.dtype.itemsize + planned[name].recipe.dtype.itemsize)
        for name, tensor in weights.tensors.items()
        if name in planned
    )
    return total if share is None else share.of(total)


def _unravel(index: int, shape: tuple[int, ...]) -> list[int]:
    """Row-major position -> indices: element 7 of a [3, 5] tensor is [1, 2]."""
    found = []
    for n in reversed(shape):
        index, rest = divmod(index, n)
        found.append(rest)
    return found[::-1]
