"""A checkpoint or a run -> what it holds, from metadata alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..opening.info import CheckpointInfo, describe
from ..opening.open import open_incomplete
from ..options import InspectOptions, RunOptions, takes
from ..saves.answer import beside
from ..saves.run import read_run
from ..saves.target import settled

if TYPE_CHECKING:
    from ..options import Roots
    from ..saves.facts import RunInfo


@takes(InspectOptions)
def inspect(src: Roots, options: InspectOptions) -> CheckpointInfo:
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
        Its tags, layout, optimizer settings and tensors, what is lost of it, and where a training can resume. Of a run
        directory with several checkpoints, the newest complete one is described; `inspect_run` lists them all.

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
    src, options = settled(src, options, newest_of_several=True)
    left = open_incomplete(src, options.tag, files_read=options.files_read)
    complete, resume = beside(src, left, files_read=options.files_read)
    return describe(left.catalog, left.reasons, complete, resume)


@takes(RunOptions)
def inspect_run(src: Roots, options: RunOptions) -> RunInfo:
    """List the saves of a training run, and say from which of them it can resume, from metadata alone.

    Names and sizes of files are read, and for the newest saves the metadata in them, so it takes only a moment for
    hundreds of saves.

    Parameters
    ----------
    src : str, os.PathLike, or sequence of these
        The run directory, with `checkpoint-500` and so on in it, a folder of tags, or one checkpoint. Several
        directories are read as one, for nodes that saved to their own disks.

    Returns
    -------
    RunInfo
        The saves, the oldest first: step, what each is good for and what is missing from it, sizes, and the models it
        was converted to.

    Raises
    ------
    NotACheckpoint
        If there is no save at `src`.

    Examples
    --------
    >>> import zeroconsolidate
    >>> run = zeroconsolidate.inspect_run("tests/fixtures/trainer_zero3_tied/checkpoint")
    >>> run.newest.whole, run.resume.line
    (True, 'resume_from_checkpoint=tests/fixtures/trainer_zero3_tied/checkpoint')
    """
    return read_run(src, files_read=options.files_read)
