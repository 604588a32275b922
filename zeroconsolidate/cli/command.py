"""The command line -> exit code: runs the command, prints, ends in order at a signal."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..archive.printable import printable
from ..errors import ZeroConsolidateError
from ..options import (
    CompareOptions,
    Opening,
    Options,
    PruneOptions,
    UniversalOptions,
    VerifyOptions,
    WatchOptions,
    as_typed,
)
from . import printing as texts
from .arguments import CONTINUING, Misuse, flags_of, given_of
from .exit_codes import ExitCode
from .flags import CompareFlags, ConvertFlags, InspectFlags, ModelFlags, PruneFlags, VerifyFlags, WatchFlags
from .parted import aborted_text, part_text, refuse_contradicting
from .problems import ended_dict, error_dict, error_text, warnings_text
from .progress import Display
from .understand import understand

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from ..outputs.make import Rehearsal
    from ..outputs.report import Report


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
    as_json = "--json" in words
    try:
        given = understand(words)
    except Misuse as error:
        return _failed(error, as_json=as_json)
    # Whoever ignores a signal (nohup, a shell's background job) means the command to go on, and a program that calls
    # this function has handlers of its own.
    taken = [number for number in _ENDING if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, _end)
    try:
        return _VERBS[given.verb](given)
    except ZeroConsolidateError as error:
        return _failed(error, as_json=as_json, given=given)
    except BrokenPipeError:
        # Whoever read what we print has gone (`| head`); what was to be done is done.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.UNREAD
    except KeyboardInterrupt:
        return _ended("interrupted", ExitCode.INTERRUPTED, given.verb, as_json=as_json)
    except _Ended as ended:
        return _ended(*_ENDING[ended.signal], given.verb, as_json=as_json)
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _failed(error: ZeroConsolidateError, *, as_json: bool, given: argparse.Namespace | None = None) -> ExitCode:
    """The exit code, after the error on stderr, and with `as_json` on stdout too."""
    as_typed(error)
    output = getattr(given, "output", None)
    print(error_text(error, checkpoint=getattr(given, "roots", ()), output=output), file=sys.stderr)
    if isinstance(error, Misuse) and error.usage:
        print(error.usage.rstrip(), file=sys.stderr)
    if as_json:
        print(json.dumps(error_dict(error, ExitCode.ERROR, output=output)))
    return ExitCode.ERROR


def _ended(how: str, code: ExitCode, verb: str, *, as_json: bool) -> ExitCode:
    """The exit code, after a sentence for whoever is still there to read it: a terminal that hung up is not."""
    message = how + ("; the same command continues from here" if verb in CONTINUING else "")
    with suppress(OSError):
        print(f"zeroconsolidate: {message}", file=sys.stderr, flush=True)
        if as_json:
            print(json.dumps(ended_dict(message, code)), flush=True)
    return code


def _end(number: int, _: object) -> None:
    raise _Ended(number)


def _convert(given: argparse.Namespace) -> ExitCode:
    from ..api.converting import consolidate, dry_run, finish_parts

    flags = flags_of(ModelFlags, given)
    refuse_contradicting(flags)
    if flags.abort:
        return _abort(given, flags)
    if flags.part is not None:
        return _convert_part(given, flags, flags.part)
    return _written(given, Options, finish_parts if flags.finish else consolidate, dry_run)


def _abort(given: argparse.Namespace, flags: ModelFlags) -> ExitCode:
    from ..api.writing import directory_for
    from ..write.staging import abort

    directory = directory_for(given.output)
    text = aborted_text(directory, abort(directory))
    if not flags.quiet:
        print(printable(text, keep="\n"))
    return ExitCode.DONE


def _convert_part(given: argparse.Namespace, flags: ModelFlags, part: str) -> ExitCode:
    from ..api.converting import consolidate_part

    with Display(sys.stderr, hidden=flags.quiet) as display:
        options = given_of(Options, given) | {"progress": display.progress, "status": display.status}
        report = consolidate_part(given.roots, given.output, part, **options)
    for warning in warnings_text(report):
        print(warning, file=sys.stderr)
    if flags.json or not flags.quiet:
        _print(flags.json, report.to_dict(), "part", ExitCode.DONE, lambda: part_text(report))
    return ExitCode.DONE


def _universal(given: argparse.Namespace) -> ExitCode:
    from ..api.universal import dry_run_universal, universal

    return _written(given, UniversalOptions, universal, dry_run_universal)


def _written(
    given: argparse.Namespace, kind: type, write: Callable[..., Report], rehearse: Callable[..., Rehearsal]
) -> ExitCode:
    flags = flags_of(ConvertFlags, given)
    with Display(sys.stderr, hidden=flags.quiet) as display:
        options = given_of(kind, given) | {"progress": display.progress, "status": display.status}
        if flags.dry_run:
            planned = rehearse(given.roots, given.output, **options)
        else:
            report = write(given.roots, given.output, **options)
    for warning in warnings_text(planned if flags.dry_run else report):
        print(warning, file=sys.stderr)
    if flags.dry_run:
        code = ExitCode.DONE
        _print(flags.json, asdict(planned.cost), "dry run", code, lambda: texts.cost_text(planned.cost))
        return code
    code = ExitCode.LOSSES if report.rescue else ExitCode.DONE
    if flags.json or not flags.quiet:
        _print(flags.json, report.to_dict(), "conversion", code, lambda: texts.report_text(report))
    return code


def _inspect(given: argparse.Namespace) -> ExitCode:
    from ..api.reading import inspect
    from ..saves.target import found_run

    flags, options = flags_of(InspectFlags, given), given_of(Opening, given)
    if not options and found_run(given.roots) is not None:
        return _inspect_run(given.roots, as_json=flags.json)
    with Display(sys.stderr, hidden=False):
        info = inspect(given.roots, **options)
    # Whoever names a save asks about that one; else the newest save is what the next run would start from.
    is_whole = info.complete[info.tag] and (bool(options) or info.resume is None or info.resume.newest_whole)
    code = ExitCode.DONE if is_whole else ExitCode.LOSSES
    _print(flags.json, info.to_dict(), "checkpoint", code, lambda: texts.info_text(info, tensors=flags.tensors))
    return code


def _inspect_run(roots: list[str], *, as_json: bool) -> ExitCode:
    from ..api.reading import inspect_run
    from .runs import run_text

    with Display(sys.stderr, hidden=False):
        run = inspect_run(roots)
    code = ExitCode.DONE if run.resume.newest_whole else ExitCode.LOSSES
    _print(as_json, run.to_dict(), "run", code, lambda: run_text(run))
    return code


def _verify(given: argparse.Namespace) -> ExitCode:
    from ..audit.verify import verify, verify_source
    from .forms import form_of

    options, flags = given_of(VerifyOptions, given), flags_of(VerifyFlags, given)
    form = form_of(given.paths, against=options.pop("against", None), source=flags.source)
    given.roots = form.checkpoints
    with Display(sys.stderr, hidden=flags.quiet) as display:
        watching: dict[str, Any] = {"progress": display.progress, "status": display.status}
        if form.output is None:
            found = verify_source(form.checkpoints, **given_of(Opening, given), **watching)
        else:
            found = verify(form.output, **options, **watching, against=form.checkpoints or None)
    code = ExitCode.DONE if found.ok else ExitCode.WRONG
    if flags.json or not flags.quiet or not found.ok:
        _print(flags.json, found.to_dict(), "verification", code, lambda: texts.verification_text(found))
    return code


def _compare(given: argparse.Namespace) -> ExitCode:
    from ..audit.compare import compare
    from .compared import comparison_text

    flags = flags_of(CompareFlags, given)
    with Display(sys.stderr, hidden=flags.quiet) as display:
        options = given_of(CompareOptions, given) | {"progress": display.progress, "status": display.status}
        found = compare(given.a, given.b, **options)
    code = ExitCode.DONE if found.equal else ExitCode.WRONG
    if flags.json or not flags.quiet or not found.equal:
        _print(flags.json, found.to_dict(), "comparison", code, lambda: comparison_text(found, tensors=flags.tensors))
    return code


def _watch(given: argparse.Namespace) -> ExitCode:
    from ..training.watching import watch
    from .runs import watched_text

    flags, code = flags_of(WatchFlags, given), ExitCode.DONE
    for watched in watch(given.roots, given.output, **given_of(WatchOptions, given)):
        if watched.report is not None:
            sys.stderr.writelines(f"{warning}\n" for warning in warnings_text(watched.report))
        if not watched.made:
            code = ExitCode.LOSSES
        if flags.json:
            print(json.dumps({"ok": watched.made, "kind": "watched"} | watched.to_dict()), flush=True)
        elif not (flags.quiet and watched.made):
            print(printable(watched_text(watched), keep="\n"), flush=True)
    return code


def _prune(given: argparse.Namespace) -> ExitCode:
    from ..api.pruning import prune
    from .runs import pruning_text

    flags = flags_of(PruneFlags, given)
    with Display(sys.stderr, hidden=flags.quiet) as display:
        options = given_of(PruneOptions, given) | {"progress": display.progress, "status": display.status}
        pruning = prune(given.roots, **options)
    code = ExitCode.WRONG if pruning.failed else ExitCode.DONE
    if flags.json or not flags.quiet or pruning.failed:
        _print(flags.json, pruning.to_dict(), "pruning", code, lambda: pruning_text(pruning))
    return code


def _print(as_json: bool, content: dict[str, Any], kind: str, code: ExitCode, text: Callable[[], str]) -> None:
    """The result on stdout."""
    if as_json:
        print(json.dumps({"ok": code == ExitCode.DONE, "kind": kind} | content))
    else:
        print(printable(text(), keep="\n"))


_VERBS: dict[str, Callable[[argparse.Namespace], ExitCode]] = {
    "convert": _convert,
    "universal": _universal,
    "inspect": _inspect,
    "verify": _verify,
    "compare": _compare,
    "watch": _watch,
    "prune": _prune,
}

if __name__ == "__main__":
    sys.exit(main())
