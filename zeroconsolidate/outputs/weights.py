"""The plan of weights -> files in the staging folder, from where an earlier run stopped."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

from ..errors import at
from ..plan.fragment import FragmentPlan
from ..run.checksum import Checksummed
from ..run.counts import Counts
from ..run.digest import Follower, Span, digest_of
from ..run.execute import execute, extents_of
from ..run.inputs import processors, side_by_side
from ..run.local import LocalFiles
from ..write.check import check as check_file
from .sharing import means_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from ..options import Writing
    from ..plan.build import ModelPlan
    from ..plan.layout import FilePlan
    from ..run.clone import Means
    from ..run.inputs import Inputs
    from ..run.storage import Writable
    from ..write.part import Part
    from ..write.staging import Staging
    from ..write.uploads import SentPart
    from .output import SideFiles


_WORTHWHILE = 16
"""Several threads where a sixteenth of the bytes, or more, are computed."""


def make_weights(
    plan: ModelPlan,
    inputs: Inputs,
    stage: Staging,
    options: Writing,
    *,
    total_bytes: int,
) -> None:
    """Write all weights that an earlier run has not written; `options.progress(done, total_bytes)` as bytes are
    written.

    With `options.digest`, the stage also remembers the digests of each file.
    """
    before, means = 0, means_of(plan, options)
    small = [each for each in plan.all_files if isinstance(each, FragmentPlan) and stage.facts(each.name) is None]
    coming = (extent for each in small for extent in extents_of(each, 0))
    with side_by_side(inputs, workers_for(plan, options)) as several, inputs.files.expecting(coming):
        for file in plan.all_files:
            if stage.facts(file.name) is not None:
                stage.keep(file.name)
            else:
                with at(file.name):
                    _file(file, several, stage, options, means, shifted(options.progress, before, total_bytes))
            before += file.size_bytes
    if stage.has_unsynced:
        options.doing("syncing")
        stage.settle()


def workers_for(plan: ModelPlan, options: Writing) -> int:
    """How many threads make the weights. By default several only where the processor has enough to do: a copy is as
    fast as the disk."""
    if options.workers != "auto":
        return options.workers
    computed = sum(tensor.nbytes for tensor in plan.tensors() if not tensor.is_copy)
    return processors() if computed * _WORTHWHILE >= sum(tensor.nbytes for tensor in plan.tensors()) else 1


def _file(
    file: FilePlan,
    inputs: tuple[Inputs, ...],
    stage: Staging,
    options: Writing,
    means: Means,
    progress: Callable[[int], None],
) -> None:
    digest = options.digest
    options.doing("copying")
    with ExitStack() as stack:
        together = isinstance(file, FragmentPlan)
        place: AbstractContextManager[Part | SentPart] = stage.weights(
            file.name, file.size_bytes, means=means, together=together
        )
        part = stack.enter_context(place)
        listeners = [part.reached, progress]
        follower = None
        if digest is not None:
            follower = stack.enter_context(Follower(part.output, spans_of(file), digest))
            listeners.append(follower.reached)
            follower.reached(part.start)

        def reached(upto: int) -> None:
            for listener in listeners:
                listener(upto)

        counts = Counts.kept_in(part.facts)
        if isinstance(file, FragmentPlan):
            make_fragment(file, inputs[0], part.output, part.start, counts, reached)
        else:
            first, *others = inputs
            stack.enter_context(first.files.expecting(extents_of(file, part.start, shared_bytes=means.block_bytes)))
            execute(file, first, part.output, start=part.start, counts=counts, reached=reached, others=others)
            options.doing("syncing")
        check_file(stage.path(file.name), file)
        if follower is not None:
            found = follower.result()
            part.facts["digests"] = {"file": found.file, "tensors": found.tensors}


def make_fragment(
    file: FragmentPlan,
    inputs: Inputs,
    target: Writable,
    start: int,
    counts: Counts,
    reached: Callable[[int], None],
) -> None:
    """A file of torch, from byte `start` on: behind the tensor stands the checksum of its bytes, and the zip
    directory."""
    shares = file.shared_bytes > 0
    output = Checksummed(target, start=len(file.header), stop=file.tail_start, written=start, shares=shares)
    execute(file, inputs, output, start=start, counts=counts, reached=reached)
    output.write(file.tail(output.value), file.tail_start)
    reached(file.size_bytes)


def spans_of(file: FilePlan) -> list[Span]:
    """A file's header, tensors and what is behind them."""
    spans = [Span(0, len(file.header), None)]
    for tensor, start in zip(file.tensors, file.starts, strict=True):
        spans.append(Span(start, start + tensor.nbytes, tensor.name))
    end = spans[-1].stop
    return [*spans, *([Span(end, file.size_bytes, None)] if end < file.size_bytes else [])]


def shifted(progress: Callable[[int, int], None] | None, before: int, total_bytes: int) -> Callable[[int], None]:
    """A function that is called with the bytes done of a file, for one that is called with those of all."""
    return lambda upto: None if progress is None else progress(before + upto, total_bytes)


def make_side_files(files: SideFiles, stage: Staging) -> dict[str, tuple[int, str]]:
    """Stage everything that is not weights. Returns sizes and SHA-256 by name."""
    for name, data in files.made.items():
        stage.write(name, data)
    for name, path in files.copies.items():
        stage.copy(name, path)
    found = {}
    with LocalFiles() as local:
        for name in sorted([*files.made, *files.copies]):
            staged = stage.path(name)
            found[name] = (os.path.getsize(staged), digest_of(local, staged, "sha256", progress=lambda _: None))
    return found
