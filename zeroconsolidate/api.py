"""The verbs: they wire the stages together and own every default."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from ._version import __version__
from .adapters.plan import prove_base
from .archive.model_files import ADAPTER_CONFIG, INDEX_NAME, MANIFEST_NAME, RESCUE_REPORT_NAME
from .errors import BadOption, UnsupportedLayout
from .opening.info import CheckpointInfo, describe
from .opening.open import open_catalog, open_incomplete
from .options import Opening, Options, roots_of, takes
from .outputs.assets import Assets, choose, of_adapters
from .outputs.manifest import manifest
from .outputs.mapping import Checkpoint
from .outputs.model import open_for, plan_model
from .outputs.report import Report
from .outputs.side_files import prepare
from .outputs.weights import make_beside, make_weights
from .plan.witness import comparisons, replica_comparisons
from .run.digest import maker
from .run.execute import BLOCK_BYTES
from .run.inputs import Inputs
from .write.fingerprint import fingerprint, refuse_changed
from .write.journal import Checks
from .write.stage import Stage, refuse_inside

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .catalog.facts import Catalog
    from .options import Path, Roots
    from .outputs.model import Planned
    from .plan.build import Cost, Source


@takes(Opening)
def inspect(src: Roots, options: Opening) -> CheckpointInfo:
    """What a checkpoint holds, from metadata alone: a moment, whatever the model's size.

    `src` may be several directories that hold one checkpoint together. Files that are missing or damaged are listed
    with what is lost, not an error. Raises NotACheckpoint, DamagedFile, Disagreement, UnsupportedLayout.

    >>> info = inspect("tests/fixtures/z3_bf16/checkpoint")
    >>> info.stage, info.world_size, info.training_dtype, info.missing_files
    (3, 2, 'bfloat16', ())
    """
    left = open_incomplete(src, options.tag)
    return describe(left.catalog, left.reasons)


@takes(Opening)
def open_checkpoint(src: Roots, options: Opening) -> Checkpoint:
    """A lazy mapping from parameter and buffer names to tensors; each is read when its `load()` is called.

    Raises what `inspect` raises, and MissingFiles.

    >>> checkpoint = open_checkpoint("tests/fixtures/z3_bf16/checkpoint")
    >>> weight = checkpoint["embed.weight"]
    >>> weight.dtype, weight.load().shape == weight.shape
    (torch.float32, True)
    """
    return Checkpoint(open_catalog(src, options.tag))


@takes(Options)
def consolidate(src: Roots, out: Path, options: Options) -> Report:
    """Turn the checkpoint `src` into the model directory `out`.

    `src` may be several directories that hold one checkpoint together (node-local disks). The output is complete or
    not there. A conversion that was stopped, killed included, goes on where it was when the same call is made again.
    What a rescue took from where is in the report's `rescue`.

    Raises what `open_checkpoint` raises, WitnessMismatch, WrongNames, OutputExists (also: in use), OutputFailed,
    BadOption (also: what is staged is another conversion).

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = consolidate("tests/fixtures/z3_bf16/checkpoint", f"{folder}/model", dtype="bf16", names="stored")
    >>> report.dtype, report.tensors
    ('bfloat16', 0)
    """
    began = time.monotonic()
    output = os.path.normpath(os.fspath(out))
    opened = open_for(src, options.tag, options)
    catalog = opened.catalog
    _refuse_unplaced(catalog, weights_only=options.weights_only)
    for root in {catalog.origin.root, *roots_of(src)}:
        refuse_inside(output, checkpoint=root, tag_directory=os.path.dirname(catalog.files[0]))
    if options.digest is not None:
        maker(options.digest)
    assets = _assets(catalog, options)
    planned = plan_model(opened, options)
    if planned.adapted is not None:
        assets = of_adapters(assets, planned.adapted)
    plan, cost = planned.plan, planned.plan.cost(BLOCK_BYTES)
    with Inputs() as inputs:
        beside = prepare(planned, assets, options, inputs)
        if opened.report is not None:
            beside.made[RESCUE_REPORT_NAME] = opened.report.to_json()
        traits = fingerprint(
            version=__version__,
            options=options.plain(),
            sources=[
                *catalog.files,
                *beside.copies.values(),
                *opened.additions.files,
                *planned.target.files,
                *opened.filled_from,
                *(planned.adapted.files if planned.adapted else ()),
            ],
            layout=plan.files,
        )
        with Stage(output, overwrite=options.overwrite, restart=options.restart, fingerprint=traits) as stage:
            resumed_bytes = stage.resumed_bytes
            if not stage.is_publishing:
                stage.need(cost.output_bytes)
            checks, how = stage.checks, f"{options.check}, {options.replicas}"
            if checks is None or checks.how != how:
                checked = _check(catalog, opened.whole, inputs, options.check, planned)
                differing = _compare_replicas(catalog, inputs, options.replicas, options.check)
                checks = Checks(how=how, numel=checked, warnings=tuple(differing))
                stage.note_checks(checks)
            if stage.is_publishing:
                sizes = stage.finish()
            else:
                make_weights(
                    plan,
                    inputs,
                    stage,
                    digest=options.digest,
                    progress=options.progress,
                    total_bytes=cost.output_bytes,
                )
                around = make_beside(beside.made, beside.copies, stage)
                digests = {file.name: (stage.facts(file.name) or {}).get("digests", {}) for file in plan.files}
                text = manifest(
                    plan,
                    catalog.origin,
                    options=options.for_manifest(),
                    digest=options.digest,
                    weights=digests,
                    beside=around,
                )
                stage.write(MANIFEST_NAME, text)
                refuse_changed(traits)
                sizes = stage.publish(last=[INDEX_NAME, "config.json", ADAPTER_CONFIG, MANIFEST_NAME])
            overflows = {
                name: count
                for file in plan.files
                for name, count in (stage.facts(file.name) or {}).get("overflows", {}).items()
            }
    origin = catalog.origin
    # What a base model does not have matters only if something is missing.
    unfilled = () if planned.target.complete else opened.additions.warnings
    return Report(
        output=output,
        files=sizes,
        tensors=cost.tensors,
        parameters=sum(tensor.numel for tensor in plan.tensors() if tensor.is_parameter),
        dtype=planned.dtype.torch_name,
        names=planned.target.reason,
        tag=origin.tag,
        step=origin.step,
        stage=origin.stage,
        world_size=origin.world_size,
        ds_version=origin.ds_version,
        seconds=time.monotonic() - began,
        bytes_read=cost.input_bytes,
        bytes_written=cost.output_bytes,
        resumed_bytes=resumed_bytes,
        checked=checks.numel,
        overflows=overflows,
        left_out=plan.left_out,
        left_behind=assets.left_behind,
        missing=assets.missing,
        from_base=len(opened.additions.sources) + len(planned.target.from_base),
        rescue=opened.report,
        notes=(*catalog.notes, *(planned.adapted.decided if planned.adapted else ()), *beside.notes),
        warnings=(
            *checks.warnings,
            *planned.target.warnings,
            *beside.warnings,
            *unfilled,
            *_warnings(assets, overflows),
        ),
    )


@takes(Options)
def estimate(src: Roots, options: Options) -> Cost:
    """What `consolidate` with the same options would read, write and need. Nothing is written.

    >>> estimate("tests/fixtures/z3_bf16/checkpoint", names="stored").files
    1
    """
    return plan_model(open_for(src, options.tag, options), options).plan.cost(BLOCK_BYTES)


def _assets(catalog: Catalog, options: Options) -> Assets:
    try:
        return choose(catalog.origin.root, options.base_directory, tags=catalog.origin.tags)
    except OSError as error:
        raise BadOption(f"a directory cannot be read: {error.strerror} (at {error.filename})") from None


def _check(catalog: Catalog, stored: Mapping[str, Source], inputs: Inputs, check: str, planned: Planned) -> int:
    if check == "none":
        return 0
    checked = prove_base(planned.adapted.comparisons, inputs) if planned.adapted is not None else 0
    if catalog.module or catalog.stacked:
        from .run.witness import compare

        checked += compare(comparisons(catalog, stored, everything=check == "all"), inputs)
    return checked


def _compare_replicas(catalog: Catalog, inputs: Inputs, replicas: str, check: str) -> list[str]:
    """Warnings about tensors of which ranks hold different copies; Disagreement unless the first may be taken."""
    if catalog.missing or (check == "none" and replicas == "equal"):
        return []
    found = replica_comparisons(catalog)
    if not found:
        return []
    from .run.witness import compare, drifted

    if replicas == "equal":
        compare([comparison for comparison in found if not comparison.is_spare], inputs)
        found = [comparison for comparison in found if comparison.is_spare]
    names = drifted(found, inputs)
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return [f"ranks hold different copies of {len(names)} tensors, the first was taken: {shown}"] if names else []


def _refuse_unplaced(catalog: Catalog, *, weights_only: bool) -> None:
    if catalog.unplaced and not weights_only:
        raise UnsupportedLayout(
            f"the optimizer's state {', '.join(map(repr, catalog.unplaced))} is not laid out like the parameters; "
            "the weights do not depend on it: --weights-only writes them",
            address=(catalog.origin.tag,),
        )


def _warnings(assets: Assets, overflows: dict[str, int]) -> list[str]:
    warnings = []
    if overflows:
        warnings.append(f"{sum(overflows.values())} values became infinite, in {', '.join(sorted(overflows)[:4])}")
    if assets.unknown:
        warnings.append(f"not copied, because not known to belong to a model: {', '.join(assets.unknown)}")
    return warnings
