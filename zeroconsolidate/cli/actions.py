"""What each command does: it calls Python's function, and prints what comes of it. Warnings go to stderr.

What only one command needs is imported by that command.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..archive.places import exists
from ..archive.printable import printable
from ..errors import BadOption
from . import printing as texts
from .arguments import Misuse, flags_of, given_of
from .colour import RED, YELLOW, painted
from .exit_codes import ExitCode
from .parted import aborted_text, part_text, refuse_contradicting
from .problems import warnings_text
from .progress import Display

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from ..outputs.make import Rehearsal
    from ..outputs.report import Report
    from .problems import Warned
    from .verbs.compare import CompareFlags
    from .verbs.convert import ModelFlags


def _convert(given: argparse.Namespace) -> ExitCode:
    from ..api.converting import consolidate, dry_run, finish_parts
    from ..options import Options
    from .verbs.convert import ModelFlags

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
    from ..options import Options

    with Display(sys.stderr, hidden=flags.quiet) as display:
        options = given_of(Options, given) | display.watching
        report = consolidate_part(given.roots, given.output, part, **options)
    _warn(report)
    if flags.json or not flags.quiet:
        _print(flags.json, report.to_dict(), "part", ExitCode.DONE, lambda: part_text(report))
    return ExitCode.DONE


def _universal(given: argparse.Namespace) -> ExitCode:
    from ..api.universal import dry_run_universal, universal
    from ..options import UniversalOptions

    return _written(given, UniversalOptions, universal, dry_run_universal)


def _written(
    given: argparse.Namespace, kind: type, write: Callable[..., Report], rehearse: Callable[..., Rehearsal]
) -> ExitCode:
    from .verbs.convert import ConvertFlags

    flags = flags_of(ConvertFlags, given)
    if flags.html is not None and not hasattr(given, "rescue"):
        raise BadOption("--html of a conversion is the rescue report", expected="--rescue as well")
    _before_html(flags.html)
    with Display(sys.stderr, hidden=flags.quiet) as display:
        options = given_of(kind, given) | display.watching
        if flags.dry_run:
            planned = rehearse(given.roots, given.output, **options)
        else:
            report = write(given.roots, given.output, **options)
    _warn(planned if flags.dry_run else report)
    if flags.dry_run:
        code = ExitCode.DONE
        _print(flags.json, asdict(planned.cost), "dry run", code, lambda: texts.cost_text(planned.cost))
        return code
    code = ExitCode.LOSSES if report.rescue else ExitCode.DONE
    if report.rescue:
        _html(flags.html, report)
    elif flags.html is not None:
        print(f"nothing was lost, so {flags.html} was not written", file=sys.stderr)
    if flags.json or not flags.quiet:
        _print(flags.json, report.to_dict(), "conversion", code, lambda: texts.report_text(report))
    return code


def _inspect(given: argparse.Namespace) -> ExitCode:
    from ..api.reading import inspect
    from ..options import InspectOptions
    from ..saves.target import found_run
    from .verbs.inspect import InspectFlags

    flags, options = flags_of(InspectFlags, given), given_of(InspectOptions, given)
    _before_html(flags.html)
    if not options and flags.html is None and found_run(given.roots) is not None:
        return _inspect_run(given.roots, as_json=flags.json)
    with Display(sys.stderr, hidden=False) as display:
        info = inspect(given.roots, **options, files_read=display.files_read)
    # Whoever names a save asks about that one; else the newest save is what the next run would start from.
    is_whole = info.complete[info.tag] and (bool(options) or info.resume is None or info.resume.newest_whole)
    code = ExitCode.DONE if is_whole else ExitCode.LOSSES
    _html(flags.html, info)
    _print(flags.json, info.to_dict(), "checkpoint", code, lambda: texts.info_text(info, tensors=flags.tensors))
    return code


def _inspect_run(roots: list[str], *, as_json: bool) -> ExitCode:
    from ..api.reading import inspect_run
    from .runs import run_text

    with Display(sys.stderr, hidden=False) as display:
        run = inspect_run(roots, files_read=display.files_read)
    code = ExitCode.DONE if run.resume.newest_whole else ExitCode.LOSSES
    _print(as_json, run.to_dict(), "run", code, lambda: run_text(run))
    return code


def _verify(given: argparse.Namespace) -> ExitCode:
    from ..audit.verify import verify, verify_source
    from ..options import SourceOptions, VerifyOptions
    from .forms import form_of
    from .verbs.verify import VerifyFlags
    from .verified import verification_text

    options, flags = given_of(VerifyOptions, given), flags_of(VerifyFlags, given)
    _before_html(flags.html)
    form = form_of(given.paths, against=options.pop("against", None), source=flags.source)
    given.roots = form.checkpoints
    if flags.tensors and (form.output is None or not form.checkpoints):
        raise Misuse(
            "--tensors compares an OUTPUT with its CHECKPOINT",
            remedy="zeroconsolidate verify OUTPUT CHECKPOINT --tensors",
        )
    with Display(sys.stderr, hidden=flags.quiet) as display:
        if form.output is None:
            found = verify_source(form.checkpoints, **given_of(SourceOptions, given), **display.watching)
        else:
            found = verify(form.output, **options, **display.watching, against=form.checkpoints or None)
    code = ExitCode.DONE if found.ok else ExitCode.WRONG
    _html(flags.html, found)
    if flags.json or not flags.quiet or not found.ok:
        _print(
            flags.json,
            found.to_dict(),
            "verification",
            code,
            lambda: verification_text(found, tensors=flags.tensors),
        )
    return code


def _compare(given: argparse.Namespace) -> ExitCode:
    from ..audit.compare import compare
    from ..options import CompareOptions
    from .answered import refuse_without_answers
    from .compared import comparison_text
    from .verbs.compare import CompareFlags

    flags = flags_of(CompareFlags, given)
    if flags.answers is not None or os.path.isfile(given.a):
        return _compare_answers(given, flags)
    refuse_without_answers(flags)
    _before_html(flags.html)
    with Display(sys.stderr, hidden=flags.quiet) as display:
        options = given_of(CompareOptions, given) | display.watching
        found = compare(given.a, given.b, **options)
    code = ExitCode.DONE if found.equal else ExitCode.WRONG
    _html(flags.html, found)
    if flags.json or not flags.quiet or not found.equal:
        _print(flags.json, found.to_dict(), "comparison", code, lambda: comparison_text(found, tensors=flags.tensors))
    return code


def _compare_answers(given: argparse.Namespace, flags: CompareFlags) -> ExitCode:
    from ..answers.compare import compare_answers
    from ..options import CompareOptions
    from .answered import answers_options, answers_text, least_agreement

    options, least = answers_options(flags, given_of(CompareOptions, given)), least_agreement(flags)
    with Display(sys.stderr, hidden=flags.quiet) as display:
        found = compare_answers(given.a, given.b, **options, status=display.status)
    code = ExitCode.DONE if least is None or found.least >= least else ExitCode.WRONG
    if flags.json or not flags.quiet or code:
        _print(flags.json, found.to_dict(), "answers", code, lambda: answers_text(found, least))
    return code


def _watch(given: argparse.Namespace) -> ExitCode:
    from ..options import WatchOptions
    from ..training.watching import watch
    from .runs import watched_text
    from .verbs.watch import WatchFlags

    flags, code = flags_of(WatchFlags, given), ExitCode.DONE
    if not flags.quiet and not any(map(exists, given.roots)):
        print(f"zeroconsolidate: waiting for {printable(given.roots[0])}, which does not exist yet", file=sys.stderr)
    for watched in watch(given.roots, given.output, **given_of(WatchOptions, given)):
        if watched.report is not None:
            _warn(watched.report)
        if not watched.made:
            code = ExitCode.LOSSES
        if flags.json:
            print(json.dumps({"ok": watched.made, "kind": "watched"} | watched.to_dict()), flush=True)
        elif not (flags.quiet and watched.made):
            print(printable(watched_text(watched), keep="\n"), flush=True)
    return code


def _prune(given: argparse.Namespace) -> ExitCode:
    from ..api.pruning import prune
    from ..options import PruneOptions
    from .runs import pruning_text
    from .verbs.prune import PruneFlags

    flags = flags_of(PruneFlags, given)
    with Display(sys.stderr, hidden=flags.quiet) as display:
        options = given_of(PruneOptions, given) | display.watching
        pruning = prune(given.roots, **options)
    code = ExitCode.WRONG if pruning.failed else ExitCode.DONE
    if flags.json or not flags.quiet or pruning.failed:
        _print(flags.json, pruning.to_dict(), "pruning", code, lambda: pruning_text(pruning))
    return code


def _before_html(path: str | None) -> None:
    """Refuse a place for `--html` before any work is done."""
    if path is not None:
        from ..reports.save import refuse_unwritable

        refuse_unwritable(path)


def _html(path: str | None, found: Any) -> None:
    """The result as a page, if that was asked for."""
    if path is not None:
        from ..reports.html import html_report
        from ..reports.save import save

        save(path, html_report(found))


def _warn(result: Warned) -> None:
    """The warnings of a result on stderr."""
    for warning in warnings_text(result):
        print(painted(warning, "warning:", YELLOW, sys.stderr), file=sys.stderr)


def _print(as_json: bool, content: dict[str, Any], kind: str, code: ExitCode, text: Callable[[], str]) -> None:
    """The result on stdout."""
    if as_json:
        print(json.dumps({"ok": code == ExitCode.DONE, "kind": kind} | content))
    else:
        print(painted(printable(text(), keep="\n"), "WRONG", RED, sys.stdout))


def _env(given: argparse.Namespace) -> ExitCode:
    from ..integrations.surroundings import surroundings
    from .about import surroundings_text
    from .verbs.env import EnvFlags

    found, flags = surroundings(), flags_of(EnvFlags, given)
    _print(flags.json, asdict(found), "environment", ExitCode.DONE, lambda: surroundings_text(found))
    return ExitCode.DONE


def _completion(given: argparse.Namespace) -> ExitCode:
    from .about import completion

    print(completion(given.roots[0]))
    return ExitCode.DONE


ACTIONS: dict[str, Callable[[argparse.Namespace], ExitCode]] = {
    "convert": _convert,
    "universal": _universal,
    "inspect": _inspect,
    "verify": _verify,
    "compare": _compare,
    "watch": _watch,
    "prune": _prune,
    "env": _env,
    "completion": _completion,
}
"""Command -> what it does; returns the exit code."""
