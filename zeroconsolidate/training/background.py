"""`consolidate_in_background`: a process of low priority converts a save, and training goes on."""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import CancelledError
from contextlib import suppress
from pathlib import Path as FilePath
from typing import IO, TYPE_CHECKING

from ..errors import OutputFailed, ZeroConsolidateError, reason
from ..options import roots_of, takes
from ..options.follow import BackgroundOptions
from .job import Job, plain_options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..options import Path, Roots
    from ..outputs.report import Report
    from .making import Made

LOGGER = logging.getLogger("zeroconsolidate")

_WITHOUT_ACCELERATORS = {
    "CUDA_VISIBLE_DEVICES": "",
    "HIP_VISIBLE_DEVICES": "",
    "ASCEND_RT_VISIBLE_DEVICES": "",
    "ZE_AFFINITY_MASK": "",
    "OMP_NUM_THREADS": "1",
}
_OF_THE_TRAINING = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK")
"""Variables by which a process would take itself for a rank."""


class BackgroundRun:
    """A conversion in a process of its own.

    :func:`zeroconsolidate.consolidate_in_background` returns it.

    Attributes
    ----------
    output : str
        The directory of the model.
    done
    removed

    Examples
    --------
    >>> import tempfile, zeroconsolidate
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = zeroconsolidate.consolidate_in_background("tests/fixtures/z3_bf16/checkpoint", f"{folder}/model")
    ...     run.result(timeout=60).tensors
    19
    """

    def __init__(self, job: Job) -> None:
        self.output = job.output
        self._made: Made | None = None
        self._error: BaseException | None = None
        self._is_over = False
        self._cancelled = False
        # Files without names: nothing is left of them, however the processes end.
        self._answer: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._lines: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self._process = self._begun(job)
        except OSError as error:
            raise OutputFailed(f"no process could be started: {reason(error)}", address=(job.output,)) from None

    def _begun(self, job: Job) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603  (our own interpreter, no shell)
            [*_idle_disk(), sys.executable, "-m", "zeroconsolidate.training.worker", job.to_json()],
            stdin=subprocess.DEVNULL,
            stdout=self._answer,
            stderr=self._lines,
            env=_environment(os.environ),
            # Ctrl-C in the training's terminal is not meant for it.
            start_new_session=True,
        )

    @property
    def done(self) -> bool:
        """Whether the process has ended. Never waits."""
        if not self._is_over and self._process.poll() is not None:
            self._finish()
        return self._is_over

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the process has ended.

        Parameters
        ----------
        timeout : float, optional
            At most so many seconds.

        Returns
        -------
        bool
            Whether it has ended.
        """
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)
        return self.done

    def cancel(self) -> None:
        """Ask the process to end; what it has written so far is kept, for the same call to continue from."""
        if not self.done:
            self._cancelled = True
            self._process.terminate()

    def result(self, timeout: float | None = None) -> Report:
        """Wait for the result.

        Parameters
        ----------
        timeout : float, optional
            At most so many seconds.

        Returns
        -------
        Report
            What was written, as `consolidate` returns it.

        Raises
        ------
        TimeoutError
            If the process has not ended after `timeout` seconds.
        concurrent.futures.CancelledError
            If it was cancelled.
        ZeroConsolidateError
            What the conversion ended with; OutputFailed if the process was killed.
        """
        if not self.wait(timeout):
            raise TimeoutError(f"the conversion to {self.output} goes on")
        if self._error is not None:
            raise self._error
        return self._result().report

    @property
    def removed(self) -> tuple[str, ...]:
        """Older models that were removed, and saves whose optimizer files were, once it is done."""
        if not self.done or self._made is None:
            return ()
        pruned = self._made.pruning.saves if self._made.pruning else ()
        return (*self._made.removed, *(save.path for save in pruned if save.removes != "nothing"))

    def _result(self) -> Made:
        if self._made is None:
            raise OutputFailed("the background process gave no answer", address=(self.output,))
        return self._made

    def _finish(self) -> None:
        """Read the answer and the log of the process that has ended."""
        self._is_over = True
        code = self._process.returncode
        self._lines.seek(0)
        rest = [line for line in self._lines.read().decode("utf-8", "replace").splitlines() if not _log(line)]
        self._answer.seek(0)
        try:
            answer = pickle.load(self._answer)
        except (EOFError, pickle.UnpicklingError):
            answer = None
        self._lines.close()
        self._answer.close()
        if isinstance(answer, ZeroConsolidateError):
            self._error = answer
        elif answer is not None:
            self._made = answer
        elif self._cancelled:
            self._error = CancelledError(f"the conversion to {self.output} was cancelled")
        else:
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            self._error = OutputFailed(
                f"the background process {how}",
                consequence=" | ".join(rest[-3:]) or None,
                remedy="the same call continues where it stopped",
                address=(self.output,),
            )


@takes(BackgroundOptions)
def consolidate_in_background(src: Roots, out: Path, options: BackgroundOptions) -> BackgroundRun:
    """Convert a save in a process of its own, which waits until all ranks have written it. Returns at once.

    The process has a low priority for processor and disk, sees no accelerator, takes part in no collective and shares
    nothing with the training. It goes on if the training ends. Call it on one rank only, after the call that saves.

    Parameters
    ----------
    src : str, os.PathLike, or sequence of these
        The save: a directory such as `checkpoint-500`, or a folder of tags, of which `latest` or `tag` names one.
        Several directories are read as one save, for nodes that save to their own disks.
    out : str or os.PathLike
        The directory of the model, as for `consolidate`.

    Returns
    -------
    BackgroundRun
        A handle: `done`, `wait()`, `result()` and `cancel()`.

    Raises
    ------
    BadOption
        If an option is unknown, makes no sense, or cannot be passed to another process, such as a function.
    OutputFailed
        If the system starts no process.

    Notes
    -----
    What the process logs is passed to the logger `zeroconsolidate` when `done`, `wait()` or `result()` is asked.

    Examples
    --------
    >>> import tempfile, zeroconsolidate
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = zeroconsolidate.consolidate_in_background("tests/fixtures/z3_bf16/checkpoint", f"{folder}/model")
    ...     run.result(timeout=60).step
    2
    """
    job = Job(paths=tuple(roots_of(src)), output=os.path.normpath(os.fspath(out)), options=plain_options(options))
    return BackgroundRun(job)


def _idle_disk() -> list[str]:
    """The command before ours that has the kernel serve our reads and writes last, where that program is there."""
    program = shutil.which("ionice")
    return [] if program is None else [program, "-c", "3", "-t"]


def _environment(ours: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in ours.items() if name not in _OF_THE_TRAINING}
    package = str(FilePath(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [package, ours.get("PYTHONPATH", "")]))
    return kept | _WITHOUT_ACCELERATORS | {"PYTHONPATH": path}


def _log(line: str) -> bool:
    """Pass on a log record of the process; False if the line is none."""
    try:
        record = json.loads(line)
        LOGGER.log(record["level"], "%s", record["message"])
    except (ValueError, KeyError, TypeError):
        return False
    return True
