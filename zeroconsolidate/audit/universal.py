"""A universal checkpoint, whatever tool wrote it -> what is wrong with it, by itself or against its checkpoint."""

from __future__ import annotations

import os
from array import array
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..archive.container import ZipContainer
from ..archive.discover import discover
from ..archive.legacy import open_container
from ..archive.located import LocatedTensor, contiguous
from ..archive.model_files import MANIFEST_NAME
from ..archive.names import UNIVERSAL_FOLDER
from ..archive.phrases import counted
from ..archive.places import is_directory, is_file, names_in, size_bytes
from ..archive.regular import Fence, read_errors, read_small
from ..archive.unpickle import unpickle
from ..archive.weights import Weights
from ..errors import DamagedFile, NotACheckpoint, StoreFailed, ZeroConsolidateError, at
from ..outputs.universal.output import LATEST, plan_universal
from ..plan.fragment import FragmentPlan
from ..plan.states import plain_step
from ..plan.whole_file import WholeFilePlan, bytes_of
from ..run.compare import first_difference
from .against import audit_against
from .source import damaged, records_of
from .subset import choose

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ..opening.opened import Opened
    from ..options.share import Share
    from ..outputs.universal.output import UniversalCheckpoint
    from ..plan.layout import TensorPlan
    from ..run.inputs import Inputs
    from .findings import Findings
    from .source import Record

_STEP = "step"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragments:
    """The fragments of a universal checkpoint."""

    weights: Weights
    """Tensors by `parameter/state`."""
    steps: Mapping[str, Any]
    """By parameter: a number, or the tensor."""


def is_universal(directory: str) -> bool:
    """Whether DeepSpeed would resume from this directory with `load_universal`."""
    return is_file(os.path.join(directory, LATEST))


def audit_universal(
    directory: str, several: Sequence[Inputs], findings: Findings, *, share: Share | None = None
) -> None:
    """Read every fragment, or a share of them, and compare its records with their CRC-32. What is wrong goes into
    `findings`. `several`: inputs for a thread each."""
    inputs, *others = several
    records: dict[str, list[Record]] = {}
    problems: dict[str, list[str]] = {}
    names = []
    paths = dict(_paths(directory))
    subset = choose({name: size_bytes(path) for name, path in paths.items()}, share)
    for name, path in paths.items():
        if name not in subset:
            continue
        try:
            with at(name), read_errors(), open_container(path) as container:
                _content(container)
                if isinstance(container, ZipContainer):
                    starts = array("q", sorted(map(container.start, container.names)))
                    records[name] = records_of(container, starts)
        except StoreFailed:
            raise
        except ZeroConsolidateError as error:
            problems[name] = [str(error)]
        findings.files += 1
        names.append(name)
    checked = [record for found in records.values() for record in found]
    bad = damaged(checked, inputs, others, findings)
    for name, found in records.items():
        wrong = [(record.name, bad[record]) for record in found if record in bad]
        problems[name] = [
            f"{name}: record {record} is damaged: its CRC-32 is wrong" if error is None else f"{name}: {error}"
            for record, error in wrong
        ]
    findings.problems += [problem for name in names for problem in problems.get(name, [])]
    subset.tell(findings, "fragment")
    findings.checks.append(f"CRC-32 of {counted(len(checked), 'record')} in {counted(findings.files, 'fragment')}")


def audit_universal_against(
    directory: str, opened: Opened, several: Sequence[Inputs], findings: Findings, *, share: Share | None = None
) -> None:
    """Compare it with what it should be made of: every value and step, and of what we wrote the other files, too.
    `several`: inputs for a thread each."""
    inputs, *others = several
    expected = plan_universal(opened)
    found = fragments_of(directory)
    planned = _planned(expected)
    weights = replace(found.weights, tensors=_shaped(_trained(found, opened), planned))
    audit_against(weights, planned, frozenset(), inputs, findings, others=others, share=share)
    is_ours = is_file(os.path.join(directory, MANIFEST_NAME))
    for own, step in expected.steps.items():
        # DeepSpeed's converter writes none at stage 3.
        if (own in found.steps or is_ours) and plain_step(found.steps.get(own)) != plain_step(step):
            findings.problems.append(
                f"{own}: the step differs; expected {plain_step(step)}, got {plain_step(found.steps.get(own))}"
            )
    findings.checks.append(f"{counted(len(found.steps), 'step')} against the checkpoint")
    if is_ours:
        _others(directory, expected, inputs, findings)


def fragments_of(directory: str) -> Fragments:
    """All fragments. Raises NotACheckpoint if there are none, DamagedFile or UnsafePickle for what cannot be read."""
    tensors: dict[str, LocatedTensor] = {}
    found: dict[str, Any] = {}
    names = []
    for name, path in _paths(directory):
        with at(name), read_errors(), open_container(path) as container:
            content = _content(container)
        parameter, state = name.split("/")
        names.append(name)
        if state == _STEP:
            found[parameter] = content
        elif isinstance(content, LocatedTensor):
            tensors[name] = content
    return Fragments(weights=Weights(directory=directory, files=tuple(names), tensors=tensors, index=None), steps=found)


def _paths(directory: str) -> Iterator[tuple[str, str]]:
    """`parameter/state` and the path, sorted."""
    folder = os.path.join(discover(directory).directory, UNIVERSAL_FOLDER)
    if not is_directory(folder):
        raise NotACheckpoint("there are no fragments", expected=f"a folder {UNIVERSAL_FOLDER}", address=(directory,))
    fence = Fence(directory)
    for parameter in sorted(names_in(folder)):
        inside = os.path.join(folder, parameter)
        if is_directory(inside):
            for file in sorted(names_in(inside)):
                fence.check(os.path.join(inside, file))
                yield f"{parameter}/{file.removesuffix('.pt')}", os.path.join(inside, file)


def _content(container: Any) -> Any:
    """The tensor of a fragment, alone or under `param`; a step as it is."""
    content = unpickle(container.read_pickle(), container)
    content = content.get("param") if isinstance(content, dict) else content
    if not isinstance(content, (LocatedTensor, int, float)):
        raise DamagedFile("the file holds no tensor", found=type(content).__name__)
    return content


def _planned(expected: UniversalCheckpoint) -> dict[str, TensorPlan]:
    return {
        "/".join(file.name.removesuffix(".pt").split("/")[-2:]): tensor
        for file in expected.plan.files
        if isinstance(file, FragmentPlan)
        for tensor in file.tensors
    }


def _trained(found: Fragments, opened: Opened) -> dict[str, LocatedTensor]:
    """The fragments without those that `ds_to_universal` makes of everything else, and no engine reads."""
    catalog = opened.catalog
    others = {name for name in catalog.order if name in catalog.ties or opened.stored[name].role != "trainable"}
    others.difference_update(catalog.listed.values())
    return {name: tensor for name, tensor in found.weights.tensors.items() if name.split("/")[0] not in others}


def _shaped(tensors: Mapping[str, LocatedTensor], planned: Mapping[str, TensorPlan]) -> dict[str, LocatedTensor]:
    """DeepSpeed's converter writes those of stage 3 flat."""

    def shaped(name: str, tensor: LocatedTensor) -> LocatedTensor:
        plan = planned.get(name)
        if plan is None or len(tensor.shape) != 1 or not tensor.is_contiguous or tensor.numel != plan.numel:
            return tensor
        return contiguous(tensor.storage, plan.shape, tensor.offset)

    return {name: shaped(name, tensor) for name, tensor in tensors.items()}


def _others(directory: str, expected: UniversalCheckpoint, inputs: Inputs, findings: Findings) -> None:
    """The files that are no fragments, byte for byte."""
    compared = 0
    for file in expected.plan.files:
        if isinstance(file, WholeFilePlan):
            (tensor,) = file.tensors
            compared += 1
            path = os.path.join(directory, file.name)
            try:
                same = size_bytes(path) == file.size_bytes and not first_difference(
                    inputs, tensor.recipe, bytes_of(path, tensor.numel), start=0, stop=tensor.numel,
                    progress=findings.read,
                )  # fmt: skip
            except OSError:
                same = False
            if not same:
                findings.problems.append(f"{file.name}: it is not the checkpoint's")
    for name, data in expected.small.items():
        compared += 1
        try:
            same = read_small(os.path.join(directory, name), len(data)) == data
        except (OSError, DamagedFile):
            same = False
        if not same:
            findings.problems.append(f"{name}: it is not what the checkpoint says")
    findings.checks.append(f"{counted(compared, 'other file')} against the checkpoint, byte for byte")
