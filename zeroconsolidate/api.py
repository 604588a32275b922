"""The verbs: they wire the stages together."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from .opening.info import CheckpointInfo, describe
from .opening.open import complete_tags, find, open_catalog, open_incomplete
from .opening.opened import open_to_convert
from .options import Opening, Options, roots_of, takes
from .outputs.checks import refuse_unplaced
from .outputs.logged import log
from .outputs.make import Rehearsal, make, rehearse
from .outputs.mapping import Checkpoint
from .outputs.model import plan_output
from .outputs.planned import plan_weights, with_recorded_base
from .outputs.report import Report, report_of
from .run.digest import maker
from .run.execute import BLOCK_BYTES
from .write.refusals import refuse_inside, refuse_taken

if TYPE_CHECKING:
    from .opening.opened import Opened
    from .options import Path, Roots
    from .outputs.output import Output
    from .plan.build import Cost


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
    origin = left.catalog.origin
    others = complete_tags(src, [tag for tag in origin.tags if tag != origin.tag])
    return describe(left.catalog, left.reasons, others)


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
    What a rescue took from where is in the report's `rescue`. Decisions, notes and warnings also go to the logger
    `zeroconsolidate` (`logging`), which is silent unless it, or the root logger, has a handler.

    Raises what `open_checkpoint` raises, WitnessMismatch, WrongNames, OutputExists (also: in use), OutputFailed,
    BadOption (also: what is staged is another conversion).

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = consolidate("tests/fixtures/z3_bf16/checkpoint", f"{folder}/model", dtype="bf16")
    >>> report.dtype, report.tensors, report.step
    ('bfloat16', 19, 2)
    """
    began = time.monotonic()
    directory = os.path.normpath(os.fspath(out))
    opened, output, options = _planned(src, directory, options)
    made = make(output, opened, options, directory)
    seconds = time.monotonic() - began
    report = report_of(output, opened, made, directory=directory, seconds=seconds, check=options.check)
    log(report)
    return report


@takes(Options)
def dry_run(src: Roots, out: Path, options: Options) -> Rehearsal:
    """What `consolidate` with the same arguments would do: its cost, what the model would lack, and warnings.

    Raises what `consolidate` would raise before it compares or copies values. Nothing is written.
    """
    directory = os.path.normpath(os.fspath(out))
    opened, output, options = _planned(src, directory, options)
    return rehearse(output, opened, options, directory)


def _planned(src: Roots, directory: str, options: Options) -> tuple[Opened, Output, Options]:
    """What is to be made, and with which options. What can be refused at once is, before any file is opened."""
    options.doing("reading metadata")
    files = find(src, options.tag)
    for place in {files.root, files.directory, *roots_of(src)}:
        refuse_inside(directory, checkpoint=place)
    refuse_taken(directory, overwrite=options.overwrite)
    if options.digest is not None:
        maker(options.digest)
    opened = open_to_convert(src, options, files)
    refuse_unplaced(opened.catalog, weights_only=options.weights_only)
    options.doing("checking names")
    options = with_recorded_base(opened, options)
    return opened, plan_output(opened, options), options


@takes(Options)
def estimate(src: Roots, options: Options) -> Cost:
    """What `consolidate` with the same options would read, write and need. Nothing is written.

    >>> estimate("tests/fixtures/z3_bf16/checkpoint", names="stored").files
    1
    """
    opened = open_to_convert(src, options)
    return plan_weights(opened, with_recorded_base(opened, options)).plan.cost(BLOCK_BYTES)
