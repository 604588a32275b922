"""`ConsolidateCallback` for Lightning's Trainer with DeepSpeed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from .callback import background_options
from .following import Following

if TYPE_CHECKING:
    from .following import When


class ConsolidateCallback(Callback):
    """Converts the checkpoints of a Lightning run to models, in the background.

    As `zeroconsolidate.ConsolidateCallback`, for the saves of Lightning's `ModelCheckpoint` under DeepSpeed.

    Parameters
    ----------
    out : str, optional
        Where to write the model of each save: a path with `{name}` or `{step}` in it. Without it,
        `{run}-models/{name}`, where `{run}` is the directory of the checkpoints.
    when : {"save", "best", "end"}, default "save"
        Convert every save, those that are the best when they are written, or the last one, when training ends.
    wait : bool, default True
        Wait for all conversions when training ends.
    **options
        Those of `consolidate_in_background`.

    Raises
    ------
    BadOption
        If an option is unknown, makes no sense, or cannot be passed to another process.

    Notes
    -----
    `ModelCheckpoint` saves after other callbacks have run, so a save is noticed at the next batch, or at the end.
    `save_top_k` removes saves: one that is removed before it is converted is lost, and this is logged.

    Examples
    --------
    >>> from zeroconsolidate.training.lightning import ConsolidateCallback
    >>> callback = ConsolidateCallback(when="best")  # Trainer(..., callbacks=[callback, ModelCheckpoint(...)])
    """

    def __init__(
        self, out: str | os.PathLike[str] | None = None, *, when: When = "save", wait: bool = True, **options: Any
    ) -> None:
        pattern = None if out is None else os.fspath(out)
        self._following = Following(pattern, when, background_options("ConsolidateCallback", options))
        self._waits = wait
        self._seen: dict[str, int] = {}

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Queue saves that were written since the last batch.

        Parameters
        ----------
        trainer : lightning.pytorch.Trainer
            Lightning's.
        pl_module : lightning.pytorch.LightningModule
            Lightning's.
        batch : Any
            Lightning's.
        batch_idx : int
            Lightning's.
        """
        self._look(trainer)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Queue saves that were written since the last batch.

        Parameters
        ----------
        trainer : lightning.pytorch.Trainer
            Lightning's.
        pl_module : lightning.pytorch.LightningModule
            Lightning's.
        """
        self._look(trainer)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Convert what is left, when all checkpoints are written.

        Parameters
        ----------
        trainer : lightning.pytorch.Trainer
            Lightning's.
        pl_module : lightning.pytorch.LightningModule
            Lightning's.
        stage : str
            Lightning's: `fit`, for a training.
        """
        if stage == "fit" and trainer.is_global_zero:
            self._look(trainer)
            self._following.end(wait=self._waits)

    def wait(self) -> None:
        """Wait for all conversions; for a callback with `wait=False`."""
        self._following.end(wait=True)

    def cancel(self) -> None:
        """End the conversion that runs, and forget those that wait."""
        self._following.cancel()

    def _look(self, trainer: Any) -> None:
        if not trainer.is_global_zero:
            return
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint):
                best = callback.best_model_path
                paths = dict.fromkeys([*callback.best_k_models, best, callback.last_model_path])
                for path in filter(None, paths):
                    # `last.ckpt` is written again and again, or is a link to another.
                    real = os.path.realpath(path)
                    if real not in self._seen or (path == callback.last_model_path and real == os.path.abspath(path)):
                        self._saved(real, trainer.global_step, is_best=path == best)
        self._following.poll()

    def _saved(self, path: str, step: int, *, is_best: bool) -> None:
        try:
            changed = os.stat(os.path.join(path, "latest")).st_mtime_ns  # DeepSpeed writes it with each save
        except OSError:
            return  # it has been removed, or is not DeepSpeed's
        if self._seen.get(path) != changed:
            self._seen[path] = changed
            self._following.saved(path, step, is_best=is_best)
