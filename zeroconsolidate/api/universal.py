"""A checkpoint -> a universal checkpoint."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ..opening.opened import open_to_resume
from ..options import UniversalOptions, takes
from ..outputs.make import Rehearsal, rehearse
from ..outputs.sharing import refuse_unshared, sharing_of
from ..outputs.universal.output import plan_universal
from ..saves.target import settled
from .writing import directory_for, found, made

if TYPE_CHECKING:
    from ..opening.opened import Opened
    from ..options import Path, Roots
    from ..outputs.output import Output
    from ..outputs.report import Report


@takes(UniversalOptions)
def universal(src: Roots, out: Path, options: UniversalOptions) -> Report:
    """Write a universal checkpoint, from which DeepSpeed resumes at another world size and ZeRO stage.

    `engine.load_checkpoint(out)` takes it, with `{"checkpoint": {"load_universal": true}}` in DeepSpeed's config. It
    has the master weights, all that the optimizer keeps of them, step, param groups, scheduler and client state. The
    output appears when it is complete, or not at all; if it is interrupted, the same call continues where it stopped.

    Parameters
    ----------
    src : str, os.PathLike, or sequence of these
        The checkpoint, of any ZeRO stage, also of a model that is spread over tensor-, pipeline- or expert-parallel
        ranks: a Trainer's `checkpoint-N`, any directory with `global_step*` folders in it, or such a folder. Nothing is
        written into it.
    out : str or os.PathLike
        The directory to write, or its URL in a store. It must not exist, or be empty.

    Returns
    -------
    Report
        What was written, what was checked and what could not be, and the line of Python that resumes from it.

    Raises
    ------
    MissingFiles
        If files are missing or damaged and `rescue` is not given, or none is left that says how to resume.
    UnsupportedLayout
        If the files do not say for certain where each value is, and of which parameter (stage 0 in fp32), or the
        optimizer's state has a layout of its own.
    ZeroConsolidateError
        What `consolidate` raises for checkpoints and outputs.

    Examples
    --------
    >>> import tempfile, zeroconsolidate
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = zeroconsolidate.universal("tests/fixtures/z3_bf16/checkpoint", f"{folder}/resume")
    >>> report.step, [name for name in report.files if name.endswith("embed.weight/exp_avg.pt")]
    (2, ['global_step2_universal/zero/embed.weight/exp_avg.pt'])
    """
    began = time.monotonic()
    directory = directory_for(out)
    opened, output = _planned_universal(src, directory, options)
    return made(output, opened, options, directory, began)


@takes(UniversalOptions)
def dry_run_universal(src: Roots, out: Path, options: UniversalOptions) -> Rehearsal:
    """Say what `universal` with the same arguments would do: its cost, and warnings. Nothing is written."""
    directory = directory_for(out)
    opened, output = _planned_universal(src, directory, options)
    return rehearse(output, opened, options, directory)


def _planned_universal(src: Roots, directory: str, options: UniversalOptions) -> tuple[Opened, Output]:
    src, options = settled(src, options)
    opened = open_to_resume(src, options, found(src, directory, options))
    output = plan_universal(opened, sharing_of(directory, opened.catalog.files, options))
    refuse_unshared(output.plan, options)
    return opened, output
