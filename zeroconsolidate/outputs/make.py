"""A planned output -> files on disk: staged, compared, checked, and only then given their final names."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..archive.model_files import MANIFEST_NAME
from ..options.mapped import EVERYTHING_HERE
from ..options.urls import is_url
from ..run.counts import Counts
from ..run.execute import BLOCK_BYTES
from ..run.inputs import Inputs
from ..run.page_cache import drop_file, kept_instead
from ..write.fingerprint import refuse_changed
from ..write.part import CLONED
from ..write.portion import start_over
from ..write.refusals import refuse_staged, refuse_unwritable
from ..write.stage import Stage
from ..write.staging import refuse_staged_remotely, staging
from .checks import checked
from .gate.examine import pass_or_refuse
from .gathered import gather, refuse_not_begun
from .manifest import manifest
from .output import Recomputed
from .prepared import prepared, refuse_what_would_not_load
from .weights import make_side_files, make_weights, workers_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..opening.opened import Opened
    from ..options import Writing
    from ..plan.build import Cost
    from ..write.journal import Checks
    from ..write.staging import Staging
    from .gate.finding import GateResult
    from .output import Output, SideFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """The result of writing an output."""

    sizes: Mapping[str, int]
    """Name -> bytes of every file, weights first."""
    cost: Cost
    resumed_bytes: int
    """Bytes of weights that an earlier, interrupted run had written."""
    parts: int
    """In how many parts the weights were made, by as many commands."""
    cloned_bytes: int
    """Bytes of weights that share the blocks of input files, those of an earlier run included."""
    checks: Checks
    counts: Counts
    """What was counted while the weights were made."""
    side_files: SideFiles
    recomputed: Recomputed
    """The result of recomputing values."""
    gate: GateResult
    """The result of the last check (`gate.py`)."""
    excused_warnings: tuple[str, ...]
    """What is wrong with it and was allowed by an option, unless the plan's warnings say it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """The result of a dry run."""

    cost: Cost
    missing: tuple[str, ...]
    """What a loader will miss."""
    warnings: tuple[str, ...]


def rehearse(output: Output, opened: Opened, options: Writing, directory: str) -> Rehearsal:
    """Refuse what :func:`make` would refuse before it compares or copies values, and write nothing."""
    cost = output.plan.cost(BLOCK_BYTES, workers_for(output.plan, options))
    with Inputs(known=opened.looks) as inputs:
        side_files, traits = prepared(output, opened, options, inputs)
    from tempfile import TemporaryDirectory  # 10 ms that only a dry run pays

    with TemporaryDirectory(prefix="zeroconsolidate-") as folder:
        refuse_what_would_not_load(folder, output, side_files, opened)
    if is_url(directory):
        refuse_staged_remotely(directory, traits, overwrite=options.overwrite, restart=options.restart)
    else:
        refuse_staged(directory, traits, overwrite=options.overwrite, restart=options.restart)
        refuse_unwritable(directory, output.plan.sizes, cloned_bytes=cost.cloned_bytes)
    return Rehearsal(cost=cost, missing=output.missing, warnings=(*output.warnings, *side_files.warnings))


def make(output: Output, opened: Opened, options: Writing, directory: str, *, finishing: bool = False) -> Made:
    """Write the output into `directory`. An interrupted run of the same conversion is continued. When `finishing`, its
    weights have been made in parts (:mod:`.parts`), and everything else is left to do.

    Raises WitnessMismatch and Disagreement for values that contradict each other, OutputExists, OutputFailed,
    BadOption if files of another conversion are staged there, or parts are not finished.
    """
    parts = refuse_not_begun(directory) if finishing else None
    cost = output.plan.cost(BLOCK_BYTES, workers_for(output.plan, options))
    excuses = output.excuses(opened)
    with Inputs(drop_cache=options.drop_cache, known=opened.looks) as inputs:
        side_files, traits = prepared(output, opened, options, inputs, parts=parts)
        with staging(
            directory,
            overwrite=options.overwrite,
            restart=options.restart,
            fingerprint=traits,
            files=output.plan.all_files,
            read_back=options.digest is not None,
        ) as stage:
            resumed_bytes = stage.resumed_bytes if parts is None else 0
            if parts is None and not stage.is_publishing:
                stage.need(output.plan.sizes, cloned_bytes=cost.cloned_bytes)
                refuse_what_would_not_load(stage.folder, output, side_files, opened)
            options.doing("comparing values")
            checks = checked(output, opened, inputs, stage, options)
            recomputed = Recomputed(checks=(), not_checked=())
            if stage.is_publishing:
                sizes = stage.finish()
                found = output.examined(directory)
                excused = tuple(finding.text for finding in found.findings)
            else:
                if parts is not None:
                    gather(output.plan, stage, options, parts)
                elif options.executor is not None:
                    from .spread import spread_weights  # pickle and the like, which others do not pay for

                    spread_weights(output.plan, stage, options, options.executor, total_bytes=cost.output_bytes)
                else:
                    make_weights(output.plan, inputs, stage, options, total_bytes=cost.output_bytes)
                if isinstance(stage, Stage):
                    recomputed = output.recomputed(opened, stage.path)
                else:
                    recomputed = Recomputed(checks=(stage.checked,), not_checked=(_NOT_READ_BACK,))
                around = make_side_files(side_files, stage)
                found = output.examined(stage.path(""))
                excused = pass_or_refuse(found, excuses)
                text = manifest(
                    output.plan,
                    opened.catalog.origin,
                    options=options.for_manifest(),
                    digest=options.digest,
                    weights={name: facts.get("digests", {}) for name, facts in _facts(output, stage).items()},
                    beside=around,
                    excused=excused,
                    noted=opened.catalog.noted,
                    averaged=[member.catalog.origin for member in opened.members],
                )
                stage.write(MANIFEST_NAME, text)
                places = EVERYTHING_HERE if parts is None else options.places
                again = "convert again with --restart" if parts is None else start_over(stage.place)
                refuse_changed(traits, start_over=again, places=places)
                sizes = stage.publish(last=[*output.published_last, MANIFEST_NAME])
            if options.drop_cache and not is_url(directory):
                for name in sizes:
                    drop_file(os.path.join(directory, name))  # the last check has looked at them
            remembered = _facts(output, stage)
    return Made(
        sizes=sizes,
        cost=cost,
        resumed_bytes=resumed_bytes,
        parts=parts or 1,
        cloned_bytes=sum(facts.get(CLONED, 0) for facts in remembered.values()),
        checks=checks,
        counts=Counts.summed(remembered.values()),
        side_files=side_files,
        recomputed=recomputed,
        gate=found,
        excused_warnings=(
            *(() if options.partial or output.warnings else excused),
            *kept_instead(asked=options.drop_cache),
        ),
    )


_NOT_READ_BACK = "uploaded weights were not read back: verify OUTPUT --against CHECKPOINT does"


def _facts(output: Output, stage: Staging) -> dict[str, dict[str, Any]]:
    """What is remembered of each file of weights."""
    return {file.name: stage.facts(file.name) or {} for file in output.plan.all_files}
