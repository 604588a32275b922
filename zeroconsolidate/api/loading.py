"""A checkpoint -> a live object that trains on with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..loading.engine_report import EngineReport
    from ..options import Roots


def load_into_engine(
    engine: Any, src: Roots, *, optimizer: bool = True, strict: bool = True, tag: str | None = None
) -> EngineReport:
    """Load a checkpoint into a live DeepSpeed engine, whatever the stages and numbers of ranks of both.

    Call it on every rank, as `engine.load_checkpoint`. Each rank reads only the elements that it holds. Afterwards the
    engine has the checkpoint's master weights, all that its optimizer keeps of them, frozen parameters and buffers,
    steps, settings of param groups, loss scale, counters and scheduler, and its 16-bit parameters follow the masters.

    Parameters
    ----------
    engine : deepspeed.DeepSpeedEngine
        What `deepspeed.initialize` or accelerate's `prepare` returned, of the same model, at stage 0, 1, 2 or 3. It
        may be new, or have trained.
    src : str, os.PathLike, or sequence of these
        The checkpoint: a Trainer's `checkpoint-N`, any directory with `global_step*` folders in it, or such a folder.
        Several directories are read as one checkpoint, for nodes that saved to their own disks. All ranks must be able
        to read all of it.
    optimizer : bool, default True
        False loads weights alone: parameters and buffers, and nothing that is counted or scheduled.
    strict : bool, default True
        False loads what both have. Names that only one of them has are in the report.
    tag : str, optional
        Which save to read, as everywhere: a tag, or `last-complete`.

    Returns
    -------
    EngineReport
        What was loaded, what had no counterpart, and the client state.

    Raises
    ------
    BadOption
        If deepspeed is not installed, or `engine` is not one of its engines.
    WrongNames
        If names or what was trained differ, and `strict` is True.
    Disagreement
        If a shape differs, or what the engine keeps together was trained with different steps or settings.
    UnsupportedLayout
        If the engine swaps to NVMe, or spreads its model over tensor-parallel, pipeline or expert-parallel ranks, or
        the optimizer's state in the checkpoint is not laid out like the parameters.
    RankFailed
        On the other ranks, if one rank fails. No rank is left waiting, and none goes on. Parameters that were loaded
        before that keep their new values: load again, or make a new engine.
    ZeroConsolidateError
        What `open_checkpoint` raises.

    Notes
    -----
    Memory: what a rank holds of one parameter, at a time. Nothing is written, and no pickled code is run: objects of
    classes in the client state are left out, and named in the notes.

    Examples
    --------
    >>> import zeroconsolidate
    >>> zeroconsolidate.load_into_engine("no engine", "tests/fixtures/z3_bf16/checkpoint")
    Traceback (most recent call last):
        ...
    zeroconsolidate.errors.BadOption: this is no engine of DeepSpeed; expected what deepspeed.initialize or \
accelerator.prepare returned first, got str
    """
    from ..integrations.live_engine import LiveEngine
    from ..loading.engine import put_into_engine

    return put_into_engine(LiveEngine(engine), src, tag, optimizer=optimizer, strict=strict)
