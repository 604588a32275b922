"""`ConsolidateCallback` for the Hugging Face Trainer."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ..errors import BadOption
from ..options import declarations
from ..options.follow import BackgroundOptions
from ..options.keywords import unknown
from .following import Following

try:
    from transformers import TrainerCallback
except ImportError:  # then there is no Trainer to call it back
    TrainerCallback = object  # type: ignore[assignment,misc]

if TYPE_CHECKING:
    from .following import When
    from .queue import Ended


class ConsolidateCallback(TrainerCallback):
    """Converts the saves of a Trainer's run to models, in the background.

    After a save the main process starts a process of low priority, which waits until all ranks have written, and
    converts. Training is not held up and does not fail by it: what goes wrong is logged.

    Parameters
    ----------
    out : str, optional
        Where to write the model of each save: a path with `{name}` or `{step}` in it. Without it,
        `{run}-models/{name}`, where `{run}` is the Trainer's `output_dir`.
    when : {"save", "best", "end"}, default "save"
        Convert every save, those that are the best when they are written, or the last one, when training ends.
    wait : bool, default True
        Wait for all conversions when training ends.
    **options
        Those of `consolidate_in_background`, such as `dtype`, `base`, `verify`, `keep` (so many models) and `prune`
        (remove the optimizer's files of older saves, once their models are verified).

    Raises
    ------
    BadOption
        If an option is unknown, makes no sense, or cannot be passed to another process.

    Notes
    -----
    `save_total_limit` removes saves. One that is removed before it is converted is lost, and this is logged: with a
    limit of 1 this happens if a conversion takes longer than the time between two saves.

    Results go to the logger `zeroconsolidate`, and to `trainer.state.log_history`.

    Examples
    --------
    >>> from zeroconsolidate import ConsolidateCallback
    >>> callback = ConsolidateCallback(dtype="bf16", keep=3)  # Trainer(..., callbacks=[callback])
    """

    def __init__(
        self, out: str | os.PathLike[str] | None = None, *, when: When = "save", wait: bool = True, **options: Any
    ) -> None:
        pattern = None if out is None else os.fspath(out)
        self._following = Following(pattern, when, background_options("ConsolidateCallback", options))
        self._waits = wait

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Queue the save that was just written.

        Parameters
        ----------
        args : transformers.TrainingArguments
            The Trainer's.
        state : transformers.TrainerState
            The Trainer's.
        control : transformers.TrainerControl
            The Trainer's.
        **kwargs
            What else the Trainer passes.
        """
        if state.is_world_process_zero:
            path = os.path.join(args.output_dir, f"checkpoint-{state.global_step}")
            best = state.best_model_checkpoint
            is_best = best is not None and os.path.basename(os.path.normpath(best)) == os.path.basename(path)
            self._following.saved(path, state.global_step, is_best=is_best)
            self._note(state, self._following.poll())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the next conversion if one has ended.

        Parameters
        ----------
        args : transformers.TrainingArguments
            The Trainer's.
        state : transformers.TrainerState
            The Trainer's.
        control : transformers.TrainerControl
            The Trainer's.
        **kwargs
            What else the Trainer passes.
        """
        if state.is_world_process_zero:
            self._note(state, self._following.poll())

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Convert what is left.

        Parameters
        ----------
        args : transformers.TrainingArguments
            The Trainer's.
        state : transformers.TrainerState
            The Trainer's.
        control : transformers.TrainerControl
            The Trainer's.
        **kwargs
            What else the Trainer passes.
        """
        if state.is_world_process_zero:
            self._note(state, self._following.end(wait=self._waits))

    def wait(self) -> None:
        """Wait for all conversions; for a callback with `wait=False`."""
        self._following.end(wait=True)

    def cancel(self) -> None:
        """End the conversion that runs, and forget those that wait."""
        self._following.cancel()

    @staticmethod
    def _note(state: Any, ended: list[Ended]) -> None:
        """In the Trainer's own log, which it saves and which `trainer.state.log_history` shows."""
        for each in ended:
            entry: dict[str, object] = {"step": state.global_step, "consolidated_step": each.step}
            if each.error:
                entry["consolidate_error"] = each.error
            else:
                entry |= {"consolidated": each.output, "consolidate_seconds": round(each.seconds, 1)}
            state.log_history.append(entry)


def background_options(called: str, options: dict[str, Any]) -> BackgroundOptions:
    """The options of a callback. Raises BadOption for one that is unknown."""
    known = [declared.name for declared in declarations(BackgroundOptions)]
    for name in options:
        if name not in known:
            raise BadOption(unknown(called, name, known))
    return BackgroundOptions(**options)
