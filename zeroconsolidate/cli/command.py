"""The command: its verbs, signals and exit codes. The only place that prints."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING

from ..errors import BadOption, ZeroConsolidateError
from ..options import Opening, Options, VerifyOptions
from . import printing as texts
from .arguments import ConvertFlags, InspectFlags, VerifyFlags, flags_of, given_of, parser
from .exit_codes import ExitCode
from .progress import Bar

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence


_ENDING = {
    signal.SIGTERM: ("terminated", ExitCode.TERMINATED),
    signal.SIGHUP: ("hung up", ExitCode.HUNG_UP),
}
"""Signals that would end the process at once, what is said of them and returned. Python itself sees to SIGINT."""


class _Ended(BaseException):
    """One of these signals, as an exception: what is staged is synced before the process ends."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = signal.Signals(number)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    given = parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # As stderr does: a name that the locale has no letters for is no reason to fail.
        sys.stdout.reconfigure(errors="backslashreplace")
    # Whoever ignores a signal (nohup, a shell's background job) means the command to go on, and a program that calls
    # this function has handlers of its own.
    taken = [number for number in _ENDING if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, _end)
    try:
        return _VERBS[given.verb](given)
    except ZeroConsolidateError as error:
        print(f"zeroconsolidate: {texts.printable(str(error))}", file=sys.stderr)
        if lost := texts.losses_text(error.losses):
            print(texts.printable(lost, keep="\n"), file=sys.stderr)
        return ExitCode.ERROR
    except BrokenPipeError:
        # Whoever read what we print has gone (`| head`); what was to be done is done.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.UNREAD
    except KeyboardInterrupt:
        return _ended("interrupted", ExitCode.INTERRUPTED)
    except _Ended as ended:
        return _ended(*_ENDING[ended.signal])
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _ended(how: str, code: ExitCode) -> ExitCode:
    """`code`, after a sentence for whoever is still there to read it: a terminal that hung up is not."""
    with suppress(OSError):
        print(f"zeroconsolidate: {how}; the same command goes on from here", file=sys.stderr, flush=True)
    return code


def _end(number: int, _: object) -> None:
    raise _Ended(number)


def _convert(given: argparse.Namespace) -> ExitCode:
    from ..api import consolidate, estimate

    options, flags = given_of(Options, given), flags_of(ConvertFlags, given)
    if flags.dry_run:
        cost = estimate(given.checkpoint, **options)
        print(json.dumps(asdict(cost)) if flags.json else texts.cost_text(cost))
        return ExitCode.DONE
    with _bar(flags) as bar:
        report = consolidate(given.checkpoint, given.output, **(options | {"progress": bar.show}))
    if flags.json:
        print(json.dumps(report.to_dict()))
    elif not flags.quiet:
        print(texts.printable(texts.report_text(report), keep="\n"))
    return ExitCode.LOSSES if report.rescue else ExitCode.DONE


def _inspect(given: argparse.Namespace) -> ExitCode:
    from ..api import inspect

    flags = flags_of(InspectFlags, given)
    info = inspect(given.checkpoint, **given_of(Opening, given))
    if flags.json:
        print(json.dumps(info.to_dict()))
    else:
        print(texts.printable(texts.info_text(info, tensors=flags.tensors), keep="\n"))
    return ExitCode.DONE


def _verify(given: argparse.Namespace) -> ExitCode:
    from ..audit.verify import verify, verify_source

    options, flags = given_of(VerifyOptions, given), flags_of(VerifyFlags, given)
    if (given.output is None) == (flags.source is None):
        raise BadOption("verify takes an output, or --source and a checkpoint")
    if flags.source is not None and "against" in options:
        raise BadOption("verify takes --against and an output, or --source alone")
    with _bar(flags) as bar:
        if flags.source is not None:
            found = verify_source(flags.source, **given_of(Opening, given), progress=bar.show)
        else:
            found = verify(given.output, **(options | {"progress": bar.show}))
    if flags.json:
        print(json.dumps(found.to_dict()))
    elif not flags.quiet or not found.ok:
        print(texts.printable(texts.verification_text(found), keep="\n"))
    return ExitCode.DONE if found.ok else ExitCode.WRONG


def _bar(flags: ConvertFlags | VerifyFlags) -> Bar:
    return Bar(hidden=flags.quiet or flags.json or not sys.stderr.isatty())


_VERBS: dict[str, Callable[[argparse.Namespace], ExitCode]] = {
    "convert": _convert,
    "inspect": _inspect,
    "verify": _verify,
}

if __name__ == "__main__":
    sys.exit(main())
