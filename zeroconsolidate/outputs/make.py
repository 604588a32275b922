"""Writes an output: everything is made aside, compared and checked, and only then given its final name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._version import __version__
from ..archive.model_files import MANIFEST_NAME, RESCUE_REPORT_NAME
from ..run.execute import BLOCK_BYTES
from ..run.inputs import Inputs
from ..write.fingerprint import fingerprint, refuse_changed
from ..write.refusals import refuse_staged, refuse_unwritable
from ..write.stage import Stage
from .checks import checked
from .manifest import manifest
from .weights import make_side_files, make_weights

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..opening.opened import Opened
    from ..options import Options
    from ..plan.build import Cost
    from ..write.journal import Checks, Fingerprint
    from .output import Output, SideFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What came of writing an output."""

    sizes: Mapping[str, int]
    """Name -> bytes of every file, weights first."""
    cost: Cost
    resumed_bytes: int
    """Of the bytes written, those an earlier, interrupted run had written already."""
    checks: Checks
    overflows: Mapping[str, int]
    """Tensor -> finite elements that became infinite in the cast."""
    side_files: SideFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """What would come of writing an output."""

    cost: Cost
    missing: tuple[str, ...]
    """What a loader will miss."""
    warnings: tuple[str, ...]


def rehearse(output: Output, opened: Opened, options: Options, directory: str) -> Rehearsal:
    """Refuse what :func:`make` would refuse before it compares or copies values, and write nothing."""
    cost = output.plan.cost(BLOCK_BYTES)
    with Inputs() as inputs:
        side_files = _side_files(output, opened, inputs)
        traits = _fingerprint(output, opened, options, side_files)
    refuse_staged(directory, traits, overwrite=options.overwrite, restart=options.restart)
    refuse_unwritable(directory, cost.output_bytes)
    return Rehearsal(cost=cost, missing=output.missing, warnings=(*output.warnings, *side_files.warnings))


def make(output: Output, opened: Opened, options: Options, directory: str) -> Made:
    """Write the output into `directory`. What an interrupted run of the same conversion has made is continued.

    Raises WitnessMismatch and Disagreement for values that contradict each other, OutputExists, OutputFailed,
    BadOption where another conversion's work is staged.
    """
    cost = output.plan.cost(BLOCK_BYTES)
    with Inputs() as inputs:
        side_files = _side_files(output, opened, inputs)
        traits = _fingerprint(output, opened, options, side_files)
        with Stage(directory, overwrite=options.overwrite, restart=options.restart, fingerprint=traits) as stage:
            resumed_bytes = stage.resumed_bytes
            if not stage.is_publishing:
                stage.need(cost.output_bytes)
            options.doing("comparing values")
            checks = checked(output, opened, inputs, stage, check=options.check, replicas=options.replicas)
            if stage.is_publishing:
                sizes = stage.finish()
            else:
                make_weights(output.plan, inputs, stage, options, total_bytes=cost.output_bytes)
                around = make_side_files(side_files, stage)
                text = manifest(
                    output.plan,
                    opened.catalog.origin,
                    options=options.for_manifest(),
                    digest=options.digest,
                    weights={name: facts.get("digests", {}) for name, facts in _facts(output, stage).items()},
                    beside=around,
                )
                stage.write(MANIFEST_NAME, text)
                refuse_changed(traits)
                sizes = stage.publish(last=[*output.published_last, MANIFEST_NAME])
            overflows = {
                name: count
                for facts in _facts(output, stage).values()
                for name, count in facts.get("overflows", {}).items()
            }
    return Made(
        sizes=sizes,
        cost=cost,
        resumed_bytes=resumed_bytes,
        checks=checks,
        overflows=overflows,
        side_files=side_files,
    )


def _side_files(output: Output, opened: Opened, inputs: Inputs) -> SideFiles:
    """All that lies beside the weights but the manifest."""
    files = output.side_files(inputs)
    if opened.report is not None:
        files.made[RESCUE_REPORT_NAME] = opened.report.to_json()
    return files


def _fingerprint(output: Output, opened: Opened, options: Options, side_files: SideFiles) -> Fingerprint:
    """All that decides a byte of the output."""
    sources = [*opened.catalog.files, *side_files.copies.values(), *output.read_files, *opened.filled_from]
    return fingerprint(version=__version__, options=options.plain(), sources=sources, layout=output.plan.files)


def _facts(output: Output, stage: Stage) -> dict[str, dict[str, Any]]:
    """What is remembered of each file of weights."""
    return {file.name: stage.facts(file.name) or {} for file in output.plan.files}
