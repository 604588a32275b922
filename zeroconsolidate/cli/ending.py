"""How a command ends that is not done: an error, a bug, a signal -> what is printed about it, and the exit code."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from ..errors import ZeroConsolidateError
from ..options import as_typed
from .arguments import Misuse
from .colour import DIM, RED, painted
from .exit_codes import ExitCode
from .problems import ended_dict, error_dict, error_text
from .verbs import declared

if TYPE_CHECKING:
    import argparse

DEBUG = "--debug"
_VARIABLE = "ZEROCONSOLIDATE_DEBUG"
_HINT = f"{DEBUG} shows the traceback"


class Bug(ZeroConsolidateError):
    """An exception of another class than ours."""

    def __init__(self, error: Exception) -> None:
        super().__init__(
            f"this is a bug: {type(error).__name__}: {error}",
            remedy=f"please report it, with the traceback that {DEBUG} shows and what `zeroconsolidate env` prints",
        )


def is_debugging(words: list[str]) -> bool:
    """Whether to print tracebacks."""
    return DEBUG in words or os.environ.get(_VARIABLE, "0") not in ("", "0")


def failed(error: Exception, *, as_json: bool, debugging: bool, given: argparse.Namespace | None = None) -> ExitCode:
    """The exit code, after the error on stderr, and with `as_json` on stdout too.

    On a terminal it is said, once, how to see the traceback, except where there is nothing to see in it.
    """
    said = error if isinstance(error, ZeroConsolidateError) else Bug(error)
    code = ExitCode.BUG if said is not error else ExitCode.ERROR
    as_typed(said)
    if debugging:
        _print_traceback(error)
    output = getattr(given, "output", None)
    text = error_text(said, checkpoint=getattr(given, "roots", ()), output=output)
    print(painted(text, "zeroconsolidate:", RED, sys.stderr), file=sys.stderr)
    if isinstance(said, Misuse):
        if said.usage:
            print(said.usage.rstrip(), file=sys.stderr)
    elif not debugging and said is error and sys.stderr.isatty():
        print(painted(f"  {_HINT}", _HINT, DIM, sys.stderr), file=sys.stderr)
    if as_json:
        print(json.dumps(error_dict(said, code, output=output)))
    return code


def _print_traceback(error: Exception) -> None:
    import traceback  # takes longer than what most errors are about

    # `from None` leaves out what was not expected to help; who debugs wants it all.
    error.__suppress_context__ = False
    traceback.print_exception(error)


def ended(how: str, code: ExitCode, verb: str, *, as_json: bool) -> ExitCode:
    """The exit code, after a sentence for whoever is still there to read it: a terminal that hung up is not."""
    message = how + ("; the same command continues from here" if declared(verb).continues else "")
    with suppress(OSError):
        print(f"zeroconsolidate: {message}", file=sys.stderr, flush=True)
        if as_json:
            print(json.dumps(ended_dict(message, code)), flush=True)
    return code
