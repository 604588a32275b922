"""Between plan and output: makes the files of a plan in the staging folder, beginning where an earlier run stopped."""

from __future__ import annotations

import hashlib
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

from .archive.regular import read_small
from .errors import at
from .plan.layout import INDEX_NAME
from .run.digest import Follower, Span
from .run.execute import execute
from .run.outputs import OutputFile
from .write.check import check as check_file
from .write.config import MAX_CONFIG_BYTES, with_dtype, without_ties

if TYPE_CHECKING:
    from collections.abc import Callable

    from .plan.build import ModelPlan
    from .plan.layout import FilePlan
    from .run.inputs import Inputs
    from .write.assets import Assets
    from .write.stage import Stage


def make_weights(
    plan: ModelPlan,
    inputs: Inputs,
    stage: Stage,
    *,
    digest: str | None,
    progress: Callable[[int, int], None] | None,
    total_bytes: int,
) -> None:
    """Make all weights that an earlier run has not made; `progress(done, total_bytes)` as bytes are written.

    With `digest`, what the stage remembers of a file has its digests.
    """
    before = 0
    for file in plan.files:
        if stage.facts(file.name) is not None:
            stage.keep(file.name)
        else:
            with at(file.name):
                _file(file, inputs, stage, digest, _shifted(progress, before, total_bytes))
        before += file.size_bytes


def _file(file: FilePlan, inputs: Inputs, stage: Stage, digest: str | None, progress: Callable[[int], None]) -> None:
    with ExitStack() as stack:
        part = stack.enter_context(stage.weights(file.name, file.size_bytes))
        listeners = [part.reached, progress]
        follower = None
        if digest is not None:
            follower = stack.enter_context(Follower(stage.path(file.name), _spans(file), digest))
            listeners.append(follower.reached)
            follower.reached(part.start)

        def reached(upto: int) -> None:
            for listener in listeners:
                listener(upto)

        overflows = part.facts.setdefault("overflows", {})
        path = os.path.join(stage.output, file.name)
        output = OutputFile(path, part.fd, start=part.start, reached=reached)
        execute(file, inputs, output, start=part.start, overflows=overflows)
        check_file(stage.path(file.name), file)
        if follower is not None:
            found = follower.result()
            part.facts["digests"] = {"file": found.file, "tensors": found.tensors}


def _spans(file: FilePlan) -> list[Span]:
    spans = [Span(0, len(file.header), None)]
    for tensor, start in zip(file.tensors, file.starts, strict=True):
        spans.append(Span(start, start + tensor.nbytes, tensor.name))
    return spans


def _shifted(progress: Callable[[int, int], None] | None, before: int, total_bytes: int) -> Callable[[int], None]:
    return lambda upto: None if progress is None else progress(before + upto, total_bytes)


def make_beside(
    plan: ModelPlan, assets: Assets, stage: Stage, torch_name: str, *, untied: bool
) -> dict[str, tuple[int, str]]:
    """Stage everything that is not weights; returns sizes and SHA-256 by name.

    `untied`: config.json must say that the embeddings, which were tied, no longer are.
    """
    if plan.index is not None:
        stage.write(INDEX_NAME, plan.index)
    for name, path in assets.copies.items():
        if name == "config.json":
            with at(path):
                config = with_dtype(read_small(path, MAX_CONFIG_BYTES), torch_name)
                stage.write(name, without_ties(config) if untied else config)
        else:
            stage.copy(name, path)
    found = {}
    for name in sorted([*assets.copies, *([INDEX_NAME] if plan.index is not None else [])]):
        with open(stage.path(name), "rb") as file:
            data = file.read()
        found[name] = (len(data), hashlib.sha256(data).hexdigest())
    return found
