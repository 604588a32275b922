"""The functions that convert and read: they take paths and options, call one stage after the other, give results."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from .opening.info import CheckpointInfo, describe
from .opening.open import complete_tags, find, open_catalog, open_incomplete
from .opening.opened import open_to_convert, open_whole
from .options import Opening, Options, UniversalOptions, roots_of, takes
from .outputs.checks import refuse_unplaced
from .outputs.logged import log
from .outputs.make import Rehearsal, make, rehearse
from .outputs.mapping import Checkpoint
from .outputs.model import plan_output
from .outputs.planned import plan_weights, with_recorded_base
from .outputs.report import Report, report_of
from .outputs.universal import plan_universal
from .run.digest import maker
from .run.execute import BLOCK_BYTES
from .write.refusals import refuse_inside, refuse_taken

if TYPE_CHECKING:
    from .archive.raw import CheckpointFiles
    from .opening.opened import Opened
    from .options import Path, Roots, Writing
    from .outputs.output import Output
    from .plan.build import Cost


@takes(Opening)
def inspect(src: Roots, options: Opening) -> CheckpointInfo:
    """Describe what a checkpoint holds, from metadata alone.

    No value is read, so it takes only a moment for a model of any size. Missing or damaged files are not an error: they
    are listed, with what is lost.

    Parameters
    ----------
    src : str, os.PathLike, or sequence of these
        The checkpoint: a Trainer's `checkpoint-N`, any directory with `global_step*` folders in it, or such a folder.
        Several directories are read as one checkpoint, for nodes that saved to their own disks.

    Returns
    -------
    CheckpointInfo
        Its tags, layout, optimizer settings and tensors, and what is lost of it.

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
        If no file is left that says which parameters there are.
    BadOption
        If a keyword is unknown, or its value makes no sense.

    Examples
    --------
    >>> import zeroconsolidate
    >>> info = zeroconsolidate.inspect("tests/fixtures/z3_bf16/checkpoint")
    >>> info.stage, info.world_size, info.training_dtype, info.missing_files
    (3, 2, 'bfloat16', ())
    """
    left = open_incomplete(src, options.tag)
    origin = left.catalog.origin
    others = complete_tags(src, [tag for tag in origin.tags if tag != origin.tag])
    return describe(left.catalog, left.reasons, others)


@takes(Opening)
def open_checkpoint(src: Roots, options: Opening) -> Checkpoint:
    """Open a checkpoint as a mapping from names to tensors that are read one at a time.

    A tensor is read when its `load()` is called. Names are those of the checkpoint; `consolidate` writes those that
    the model's class expects.

    Parameters
    ----------
    src : str, os.PathLike, or sequence of these
        The checkpoint: a Trainer's `checkpoint-N`, any directory with `global_step*` folders in it, or such a folder.
        Several directories are read as one checkpoint, for nodes that saved to their own disks.

    Returns
    -------
    Checkpoint
        Name to tensor, in the order of the module. Tied weights are under each of their names.

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
        If files are missing or damaged. The error's `losses` say what is lost of each tensor.
    WitnessMismatch
        If master weights that were saved without names (stage 0) match no parameter.
    BadOption
        If a keyword is unknown, or its value makes no sense.

    Notes
    -----
    Trained parameters have the dtype of their master weights, which is float32, except for runs that keep masters in
    bfloat16. Frozen parameters and buffers have the dtype they were saved in. Shapes are those of the whole tensor,
    whatever the number of ranks.

    Examples
    --------
    >>> import zeroconsolidate
    >>> checkpoint = zeroconsolidate.open_checkpoint("tests/fixtures/z3_bf16/checkpoint")
    >>> weight = checkpoint["embed.weight"]
    >>> weight.dtype, weight.load().shape == weight.shape
    (torch.float32, True)
    """
    return Checkpoint(open_catalog(src, options.tag))


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
    directory = os.path.normpath(os.fspath(out))
    opened, output, options = _planned(src, directory, options)
    return _made(output, opened, options, directory, began)


@takes(Options)
def dry_run(src: Roots, out: Path, options: Options) -> Rehearsal:
    """Say what `consolidate` with the same arguments would do: its cost, what the model would lack, and warnings.

    Nothing is written. Raises what `consolidate` would raise before it compares or copies values.
    """
    directory = os.path.normpath(os.fspath(out))
    opened, output, options = _planned(src, directory, options)
    return rehearse(output, opened, options, directory)


def _planned(src: Roots, directory: str, options: Options) -> tuple[Opened, Output, Options]:
    """What is to be made, and with which options. What can be refused at once is, before any file is opened."""
    files = _found(src, directory, options)
    opened = open_to_convert(src, options, files)
    refuse_unplaced(opened.catalog, weights_only=options.weights_only)
    options.doing("checking names")
    options = with_recorded_base(opened, options)
    return opened, plan_output(opened, options), options


def _made(output: Output, opened: Opened, options: Writing, directory: str, began: float) -> Report:
    """Write a planned output. `began`: when, by the monotonic clock, the call did."""
    made = make(output, opened, options, directory)
    seconds = time.monotonic() - began
    report = report_of(output, opened, made, directory=directory, seconds=seconds, check=options.check)
    log(report)
    return report


def _found(src: Roots, directory: str, options: Writing) -> CheckpointFiles:
    """The files of the checkpoint, if an output of it may be written into `directory`."""
    options.doing("reading metadata")
    files = find(src, options.tag)
    for place in {files.root, files.directory, *roots_of(src)}:
        refuse_inside(directory, checkpoint=place)
    refuse_taken(directory, overwrite=options.overwrite)
    if options.digest is not None:
        maker(options.digest)
    return files


@takes(UniversalOptions)
def universal(src: Roots, out: Path, options: UniversalOptions) -> Report:
    """Write a universal checkpoint, from which DeepSpeed resumes at another world size and ZeRO stage.

    `engine.load_checkpoint(out)` takes it, with `{"checkpoint": {"load_universal": true}}` in DeepSpeed's config. It
    has the master weights, all that the optimizer keeps of them, step, param groups, scheduler and client state. The
    output appears when it is complete, or not at all; if it is interrupted, the same call continues where it stopped.

    Parameters
    ----------
    src : str, os.PathLike, or sequence of these
        The checkpoint, of ZeRO stage 1, 2 or 3: a Trainer's `checkpoint-N`, any directory with `global_step*` folders
        in it, or such a folder. Nothing is written into it.
    out : str or os.PathLike
        The directory to write. It must not exist, or be empty.

    Returns
    -------
    Report
        What was written, what was checked and what could not be, and the line of Python that resumes from it.

    Raises
    ------
    UnsupportedLayout
        If the files do not say for certain where each value is, or it is a layout that is not written yet: stage 0,
        tensor, pipeline and expert parallelism, optimizers with states in a layout of their own.
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
    directory = os.path.normpath(os.fspath(out))
    opened, output = _planned_universal(src, directory, options)
    return _made(output, opened, options, directory, began)


@takes(UniversalOptions)
def dry_run_universal(src: Roots, out: Path, options: UniversalOptions) -> Rehearsal:
    """Say what `universal` with the same arguments would do: its cost, and warnings. Nothing is written."""
    directory = os.path.normpath(os.fspath(out))
    opened, output = _planned_universal(src, directory, options)
    return rehearse(output, opened, options, directory)


def _planned_universal(src: Roots, directory: str, options: UniversalOptions) -> tuple[Opened, Output]:
    opened = open_whole(src, _found(src, directory, options))
    return opened, plan_universal(opened)


@takes(Options)
def estimate(src: Roots, options: Options) -> Cost:
    """Say what `consolidate` with the same options would read, write and need.

    Nothing is written, and no value is read.

    Parameters
    ----------
    src : str, os.PathLike, or sequence of these
        The checkpoint: a Trainer's `checkpoint-N`, any directory with `global_step*` folders in it, or such a folder.
        Several directories are read as one checkpoint, for nodes that saved to their own disks.

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
    opened = open_to_convert(src, options)
    return plan_weights(opened, with_recorded_base(opened, options)).plan.cost(BLOCK_BYTES)
