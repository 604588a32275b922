"""The command line -> exit code: understands it, has it done, and ends in order at an error or a signal."""

from __future__ import annotations

import io
import os
import signal
import sys
from typing import TYPE_CHECKING

from .arguments import Misuse
from .ending import DEBUG, ended, failed, is_debugging
from .exit_codes import ExitCode
from .understand import understand

if TYPE_CHECKING:
    from collections.abc import Sequence

_ENDING = {
    signal.SIGTERM: ("terminated", ExitCode.TERMINATED),
    signal.SIGHUP: ("the terminal was closed", ExitCode.HUNG_UP),
}
"""Signals that would end the process at once, and what is printed about them. Python itself handles SIGINT."""


class _Ended(BaseException):
    """One of these signals, as an exception: what is staged is synced before the process ends."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = signal.Signals(number)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # As stderr does: a name that the locale has no letters for is not a reason to fail.
        sys.stdout.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if argv is None else argv)
    as_json, debugging = "--json" in words, is_debugging(words)
    try:
        given = understand([word for word in words if word != DEBUG])
    except Misuse as error:
        return failed(error, as_json=as_json, debugging=debugging)
    # Whoever ignores a signal (nohup, a shell's background job) means the command to go on, and a program that calls
    # this function has handlers of its own.
    taken = [number for number in _ENDING if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, _end)
    try:
        from .actions import ACTIONS  # `--help` and `--version` have ended by now

        return ACTIONS[given.verb](given)
    except BrokenPipeError:
        # Whoever read what we print has gone (`| head`); what was to be done is done.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.UNREAD
    except Exception as error:  # noqa: BLE001  (ours, and what is a bug)
        return failed(error, as_json=as_json, debugging=debugging, given=given)
    except KeyboardInterrupt:
        return ended("interrupted", ExitCode.INTERRUPTED, given.verb, as_json=as_json)
    except _Ended as signalled:
        return ended(*_ENDING[signalled.signal], given.verb, as_json=as_json)
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _end(number: int, _: object) -> None:
    raise _Ended(number)


if __name__ == "__main__":
    sys.exit(main())
