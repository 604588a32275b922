"""PEFT in a process that begins as a copy of this one, which has PEFT imported: it starts in milliseconds."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

MODULE = "zeroconsolidate.integrations.peft_modules"


class Forked:
    """As much of `subprocess.Popen` as `adapters/by_peft.py` uses, for the one module that it starts."""

    def __init__(self, command: Sequence[str], **_: Any) -> None:
        arguments = command[command.index(MODULE) + 1 :]
        requests, answers = os.pipe(), os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self._pid = os.fork()
        if self._pid == 0:
            _serve(arguments, requests, answers)
        os.close(requests[0])
        os.close(answers[1])
        self.stdin = os.fdopen(requests[1], "wb")
        self.stdout = os.fdopen(answers[0], "rb")

    def terminate(self) -> None:
        os.kill(self._pid, signal.SIGTERM)

    def wait(self) -> int:
        return os.waitpid(self._pid, 0)[1]


def _serve(arguments: Sequence[str], requests: tuple[int, int], answers: tuple[int, int]) -> None:
    """The child's part: what the module does as a program of its own. It never returns."""
    try:
        os.dup2(requests[0], 0)
        os.dup2(answers[1], 1)
        for descriptor in (*requests, *answers):
            os.close(descriptor)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 2)
        sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
        sys.__stdout__ = sys.stdout  # as in a program of its own: replacing sys.stdout does not close it
        from zeroconsolidate.integrations.peft_modules import main

        os._exit(main(*arguments))
    finally:
        os._exit(1)
