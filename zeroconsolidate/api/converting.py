"""A checkpoint -> a model directory or an adapter, or what that would cost."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from ..opening.opened import open_to_convert
from ..options import Options, roots_of, takes
from ..options.urls import is_url
from ..outputs.averaging import mean_of
from ..outputs.checks import refuse_unplaced
from ..outputs.gathered import refuse_for_several, refuse_not_begun
from ..outputs.make import Rehearsal, rehearse
from ..outputs.model import plan_output
from ..outputs.parts import refuse_restart
from ..outputs.planned import plan_weights, with_recorded_base
from ..outputs.weights import workers_for
from ..plan.stretches import Part
from ..run.execute import BLOCK_BYTES
from ..saves.several import several
from ..write.refusals import refuse_read
from .writing import directory_for, found, made, made_part

if TYPE_CHECKING:
    from ..opening.opened import Opened
    from ..options import Path, Roots
    from ..outputs.output import Output
    from ..outputs.parts import PartReport
    from ..outputs.report import Report
    from ..plan.build import Cost


@takes(Options)
def consolidate(src: Roots, out: Path, options: Options) -> Report:
    """Write the model directory, or the adapter, that a checkpoint holds.

    The output appears when it is complete, or not at all. If the conversion is interrupted, even killed, the same call
    continues where it stopped.

    Parameters
    ----------
    src : str, os.PathLike, or sequence of these
        The checkpoint: a Trainer's `checkpoint-N`, any directory with `global_step*` folders in it, or such a folder.
        Several directories are read as one checkpoint, for nodes that saved to their own disks.
    out : str or os.PathLike
        The directory to write. It must be empty, or not exist; see `overwrite`.

    Returns
    -------
    Report
        What was written, what was checked and what could not be, and the line of Python that loads the result.

    Raises
    ------
    NotACheckpoint
        If there is no checkpoint at `src`, or permission to read one of its files is denied.
    DamagedFile
        If a file is truncated, or not what its name says. UnsafePickle and UnsafePath, for what may be an attack, are
        subclasses of it.
    Disagreement
        If files of the checkpoint contradict each other.
    UnsupportedLayout
        If the files do not say for certain where each parameter is.
    MissingFiles
        If files are missing or damaged and `rescue` is not given. The error's `losses` say what is lost of each tensor.
    WitnessMismatch
        If a master weight does not round to its 16-bit copy, or the base model is not the one an adapter was trained
        on.
    WrongNames
        If a loader would leave parameters random and `allow_missing` is not given.
    OutputExists
        If `out` is not empty and `overwrite` is not given, or another process is writing it.
    OutputFailed
        If `out` cannot be written, for example because the disk is full.
    BadOption
        If an option is unknown or makes no sense for this checkpoint, or `out` has an interrupted conversion in it,
        with other options or of another checkpoint.

    Notes
    -----
    By default the weights are the float32 master weights, bit for bit, in safetensors. They are copied block by block,
    which takes about 40 MiB of memory for a model of any size; torch is imported only to merge adapters.

    Decisions, notes and warnings also go to the logger `zeroconsolidate` of the module `logging`. It prints nothing
    unless it, or the root logger, has a handler.

    Examples
    --------
    >>> import tempfile, zeroconsolidate
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = zeroconsolidate.consolidate("tests/fixtures/z3_bf16/checkpoint", f"{folder}/model", dtype="bf16")
    >>> report.dtype, report.tensors, report.step
    ('bfloat16', 19, 2)
    """
    began = time.monotonic()
    directory = directory_for(out)
    if options.executor is not None:
        refuse_for_several(directory, options)
    opened, output, options = _planned(src, directory, options)
    return made(output, opened, options, directory, began)


convert = consolidate
"""`consolidate`, as the command is called."""


@takes(Options)
def consolidate_part(src: Roots, out: Path, part: str, options: Options) -> PartReport:
    """Write one part of what `consolidate` would write: each part by a process of its own, on any machine.

    All machines must see the checkpoint and the output. Parts may be written at the same time, in any order, and again:
    one that was interrupted, even killed, continues where it stopped. When all are written, `finish_parts` with the
    same options checks the output and gives it its name. Until then nothing in `out` has a final name.

    Parameters
    ----------
    src : str, os.PathLike, or sequence of these
        The checkpoint, as for `consolidate`.
    out : str or os.PathLike
        The directory that the output will be in.
    part : str
        Which part, and of how many: `3/16`. They are cut by bytes, to equal shares.

    Returns
    -------
    PartReport
        Which bytes were written.

    Raises
    ------
    OutputBusy
        If another process writes the same part, or finishes the output.
    BadOption
        If `out` has a conversion in it with other options, of another checkpoint or in another number of parts.
    ZeroConsolidateError
        What `consolidate` raises before it compares or copies values.

    Examples
    --------
    >>> import tempfile, zeroconsolidate
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for part in ("1/2", "2/2"):
    ...         _ = zeroconsolidate.consolidate_part("tests/fixtures/z3_bf16/checkpoint", f"{folder}/model", part)
    ...     report = zeroconsolidate.finish_parts("tests/fixtures/z3_bf16/checkpoint", f"{folder}/model")
    >>> report.parts
    2
    """
    began, number = time.monotonic(), Part.parse(part)
    refuse_restart(options)
    directory = directory_for(out)
    refuse_for_several(directory, options)
    opened, output, options = _planned(src, directory, options)
    return made_part(output, opened, options, directory, number, began)


@takes(Options)
def finish_parts(src: Roots, out: Path, options: Options) -> Report:
    """Finish an output whose parts `consolidate_part` has written: it is checked, and gets its name.

    The result is what `consolidate` with the same options writes, byte for byte. If it is interrupted, even killed, the
    same call goes on.

    Parameters
    ----------
    src : str, os.PathLike, or sequence of these
        The checkpoint, as for `consolidate`.
    out : str or os.PathLike
        The directory that the parts were written for.

    Returns
    -------
    Report
        What was written, what was checked and what could not be, and the line of Python that loads the result.

    Raises
    ------
    BadOption
        If parts are missing or not finished, or were written with other options or of another checkpoint.
    OutputBusy
        If parts are still being written.
    OutputFailed
        If a staged file is no longer there.
    ZeroConsolidateError
        What `consolidate` raises.

    Examples
    --------
    >>> import tempfile, zeroconsolidate
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     try:
    ...         zeroconsolidate.finish_parts("tests/fixtures/z3_bf16/checkpoint", f"{folder}/model")
    ...     except zeroconsolidate.BadOption as error:
    ...         print(error.expected)
    an output whose parts have been written
    """
    began = time.monotonic()
    refuse_restart(options)
    directory = directory_for(out)
    refuse_for_several(directory, options)
    refuse_not_begun(directory)  # what is asked for is known to be wrong before any file is read
    opened, output, options = _planned(src, directory, options)
    return made(output, opened, options, directory, began, finishing=True)


@takes(Options)
def dry_run(src: Roots, out: Path, options: Options) -> Rehearsal:
    """Say what `consolidate` with the same arguments would do: its cost, what the model would lack, and warnings.

    Nothing is written. Raises what `consolidate` would raise before it compares or copies values.
    """
    directory = directory_for(out)
    opened, output, options = _planned(src, directory, options)
    return rehearse(output, opened, options, directory)


def _planned(src: Roots, directory: str, options: Options) -> tuple[Opened, Output, Options]:
    """What is to be made, and with which options. What can be refused at once is, before any file is opened."""
    chosen = several(src, options)
    options = options if options.average is not None else chosen[0][1]
    refuse_read(
        directory, models=[os.fspath(each) for each in (options.base, *roots_of(options.fill)) if each is not None]
    )
    files = [found(path, directory, own) for path, own in chosen]
    opened = mean_of([open_to_convert(path, own, its) for (path, own), its in zip(chosen, files, strict=True)], options)
    for each in opened.each:
        refuse_unplaced(each.catalog, weights_only=options.weights_only)
    options.doing("checking names")
    options = with_recorded_base(opened, options)
    # A store shares no blocks with anything: the layout does not depend on where it is.
    return opened, plan_output(opened, options, directory=directory), options


@takes(Options)
def estimate(src: Roots, out: Path | None = None, *, options: Options) -> Cost:
    """Say what `consolidate` with the same options would read, write and need.

    Nothing is written, and no value is read.

    Parameters
    ----------
    src : str, os.PathLike, or sequence of these
        The checkpoint: a Trainer's `checkpoint-N`, any directory with `global_step*` folders in it, or such a folder.
        Several directories are read as one checkpoint, for nodes that saved to their own disks.
    out : str or os.PathLike, optional
        The directory that would be written. Without it, nothing is said of cloning, which depends on its disk.

    Returns
    -------
    Cost
        Bytes to read and to write, memory, numbers of files and tensors.

    Raises
    ------
    ZeroConsolidateError
        What `consolidate` would raise before it compares or copies values, except errors about the output directory.

    Examples
    --------
    >>> import zeroconsolidate
    >>> zeroconsolidate.estimate("tests/fixtures/z3_bf16/checkpoint", names="stored").files
    1
    """
    chosen = several(src, options)
    options = options if options.average is not None else chosen[0][1]
    opened = mean_of([open_to_convert(path, own) for path, own in chosen], options)
    directory = None if out is None or is_url(directory_for(out)) else directory_for(out)
    plan = plan_weights(opened, with_recorded_base(opened, options), directory=directory).plan
    return plan.cost(BLOCK_BYTES, workers_for(plan, options))
