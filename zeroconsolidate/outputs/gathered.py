"""Weights that were made in parts -> complete files in the staging folder, checked as those of one run are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import BadOption, at
from ..options.urls import is_url
from ..plan.stretches import Part, share_of
from ..run.counts import Counts
from ..run.digest import digests_of
from ..run.inputs import threads_for
from ..run.local import LocalFiles
from ..write.fingerprint import parts_in
from ..write.part import CLONED
from ..write.staging import begun, gathered, grid_of, refuse_one_machine
from .weights import spans_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ..options import Writing
    from ..plan.build import ModelPlan
    from ..plan.layout import FilePlan
    from ..run.digest import Digests
    from ..write.staging import Staging


def refuse_not_begun(directory: str) -> int:
    """In how many parts an output is being made. Raises BadOption if it is not."""
    before = begun(directory)
    if before is None:
        raise BadOption(
            f"{directory} has no parts to finish",
            expected="an output whose parts have been written",
            remedy="write each part first, with --part 1/16 to --part 16/16 in place of --finish, for example",
        )
    parts = parts_in(before)
    if parts is None:
        raise BadOption(
            f"{directory} has an interrupted conversion that is not made in parts",
            remedy="continue it with the same command without --finish",
        )
    return parts


def refuse_for_several(directory: str, options: Writing) -> None:
    """Refuse what several processes cannot make: an output in a store to which only one can send a file, and digests
    of one in any store, which gives nothing back before a file is complete. Raises BadOption."""
    refuse_one_machine(directory)
    if is_url(directory) and options.digest is not None:
        raise BadOption(
            "--digest needs the bytes of files that other processes have sent to a store, which gives none back before "
            "a file is complete",
            remedy="leave out --digest, and run verify OUTPUT --against CHECKPOINT when the output is complete",
        )


def gather(plan: ModelPlan, stage: Staging, options: Writing, parts: int) -> None:
    """Take over the files that parts have made: all of them must be finished. With `options.digest` they are read.

    Raises BadOption for parts that are not finished, OutputFailed for files that are not there, PlanBroken for files
    that are not what was planned.
    """
    files = plan.all_files
    grid = grid_of(stage.output)
    shares = {part: share_of(files, part, grid) for part in (Part(number, parts) for number in range(1, parts + 1))}
    found = gathered(stage.output, stage.token, shares, {file.name: file.size_bytes for file in files})
    adopt(files, stage, options, found)


def adopt(
    files: Sequence[FilePlan], stage: Staging, options: Writing, found: Mapping[str, Sequence[Mapping[str, Any]]]
) -> None:
    """Take over files that are complete: each is opened by its reader, and with `options.digest` read. `found`: what is
    remembered of each, by those who have made it.

    Raises PlanBroken for a file that is not what was planned, OutputFailed for one that a store has not.
    """
    left = []
    for file in files:
        if stage.facts(file.name) is not None:
            stage.keep(file.name)
        else:
            stage.check(file)
            left.append(file)
    done, total = 0, sum(file.size_bytes for file in left)
    if options.digest is not None and left:
        options.doing("computing digests")
    for file, digests in _digests(left, stage, options):
        stage.adopt(file.name, file.size_bytes, _together(found[file.name], digests))
        done += file.size_bytes
        if options.progress is not None:
            options.progress(done, total)


def _digests(files: list[FilePlan], stage: Staging, options: Writing) -> Iterable[tuple[FilePlan, Digests | None]]:
    algorithm = options.digest
    if algorithm is None:
        yield from ((file, None) for file in files)
        return

    def digests(local: LocalFiles, file: FilePlan) -> tuple[FilePlan, Digests]:
        with at(file.name):
            return file, digests_of(local, stage.path(file.name), spans_of(file), algorithm)

    with LocalFiles() as local:
        from ..run.threads import Threads  # with what it imports, which a conversion in one part does without

        with Threads([local] * min(threads_for(options.workers), len(files)), digests) as threads:
            if threads.are_there:
                yield from threads.in_order(files)
                return
        yield from (digests(local, file) for file in files)


def _together(facts: Sequence[Mapping[str, Any]], digests: Digests | None) -> dict[str, Any]:
    """What the parts remember of a file, as one run would."""
    counts = Counts.summed(facts)
    cloned_bytes = sum(of_part.get(CLONED, 0) for of_part in facts)
    return (
        {"overflows": counts.overflows, "differing": counts.differing}
        | ({CLONED: cloned_bytes} if cloned_bytes else {})
        | ({} if digests is None else {"digests": {"file": digests.file, "tensors": digests.tensors}})
    )
