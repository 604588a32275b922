"""A checkpoint -> a mapping of its tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..mapping.open import opened_mapping
from ..options import ReadingOptions, takes
from ..saves.target import settled

if TYPE_CHECKING:
    from ..mapping.checkpoint import Checkpoint
    from ..options import Roots


@takes(ReadingOptions)
def open_checkpoint(src: Roots, options: ReadingOptions) -> Checkpoint:
    """Open a checkpoint as a mapping from names to tensors that are read one at a time.

    A tensor is read when its `load()` is called, and a part of it by `tensor[2:10]`. Nothing else of it is in memory.

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
        If files are missing or damaged and `rescue` is not given. The error's `losses` say what is lost of each tensor.
    WitnessMismatch
        If master weights that were saved without names (stage 0) match no parameter.
    WrongNames
        With `names`, if it is not known how the tensors are to be called.
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
    src, options = settled(src, options)
    return opened_mapping(src, options)
