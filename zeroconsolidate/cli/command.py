"""The command: arguments, progress bar, printing, exit codes. The only place that prints.

Exit codes: 0 done, 1 `verify` found something wrong, 2 an error that is one sentence on stderr, 3 done with losses
(`--rescue`), 129, 130 and 143 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from .._version import __version__
from ..errors import BadOption, ZeroConsolidateError
from . import printing as texts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..plan.build import Cost


_ENDING = {signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}
"""Signals that would end the process at once, and what is said of them. Python itself sees to SIGINT."""


class _Ended(BaseException):
    """One of these signals, as an exception: what is staged is synced before the process ends."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = signal.Signals(number)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = _parser().parse_args(argv)
    # Whoever ignores a signal (nohup, a shell's background job) means the command to go on, and a program that calls
    # this function has handlers of its own.
    taken = [number for number in _ENDING if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, _end)
    try:
        code: int = options.run(options)
        return code
    except ZeroConsolidateError as error:
        print(f"zeroconsolidate: {_printable(str(error))}", file=sys.stderr)
        if lost := texts.losses_text(error.losses):
            print(_printable(lost, keep="\n"), file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Whoever read what we print has gone (`| head`); what was to be done is done.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return _ended("interrupted", signal.SIGINT)
    except _Ended as ended:
        return _ended(_ENDING[ended.signal], ended.signal)
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _ended(how: str, number: signal.Signals) -> int:
    """The exit code, after a sentence for whoever is still there to read it: a terminal that hung up is not."""
    with suppress(OSError):
        print(f"zeroconsolidate: {how}; the same command goes on from here", file=sys.stderr, flush=True)
    return 128 + number


def _printable(text: str, keep: str = "") -> str:
    """`text` without what steers a terminal: names in it come from files that others made.

    >>> _printable("global_step1\\x1b[2J")
    'global_step1\\\\x1b[2J'
    """
    return "".join(c if c.isprintable() or c in keep else repr(c)[1:-1] for c in text)


def _end(number: int, _: object) -> None:
    raise _Ended(number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="zeroconsolidate", description="Turn a DeepSpeed ZeRO checkpoint into a model directory that loads."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    convert = commands.add_parser("convert", help="write the model", description="Write the model of a checkpoint.")
    convert.set_defaults(run=_convert)
    _source(convert)
    convert.add_argument("output", metavar="OUTPUT", help="directory to write; must not exist, or be empty")
    convert.add_argument("--dtype", default="fp32", metavar="fp32|bf16|fp16|auto", help="of parameters (default: fp32)")
    convert.add_argument("--max-shard-size", metavar="5GB", help="split the weights into files of at most this size")
    convert.add_argument(
        "--base", metavar="DIR|ID", help="the original model, for files and weights the checkpoint lacks"
    )
    rescue = convert.add_mutually_exclusive_group()
    rescue.add_argument("--rescue", action="store_true", default=False,
                        help="write what can be had of an incomplete checkpoint")  # fmt: skip
    # An option of its own: as an optional value of the one above, it would swallow CHECKPOINT.
    rescue.add_argument("--rescue=zeros", dest="rescue", action="store_const", const="zeros",
                        help="the same, with zeros for what is nowhere")  # fmt: skip
    convert.add_argument("--fill", action="append", default=[], metavar="DIR", help="in a rescue: a model to fill with")
    convert.add_argument("--lora", choices=("adapter", "merge", "keep"),
                         help="adapters: write them for PEFT (default), merge them, or keep the raw names")  # fmt: skip
    convert.add_argument("--adapter", action="append", default=[], metavar="NAME", dest="adapters",
                         help="which of several adapters; repeat it in the order of merging")  # fmt: skip
    convert.add_argument("--exclude-frozen", action="store_true", help="write trained parameters and buffers only")
    convert.add_argument("--ties", choices=("drop", "copy"), default="drop", help="tied weights: once, or by all names")
    convert.add_argument("--include", action="append", default=[], metavar="GLOB", help="only names that match")
    convert.add_argument("--exclude", action="append", default=[], metavar="GLOB", help="no names that match")
    convert.add_argument("--names", choices=("hub", "in-memory", "stored"), default="hub",
                         help="by evidence, in the hub's layout (default); in transformers 5's; unchanged")  # fmt: skip
    convert.add_argument("--rename", action="append", metavar="FROM=TO", help="a prefix, or a regex as /FROM/=TO")
    convert.add_argument("--allow-missing", action="store_true", help="write even if a loader would miss parameters")
    convert.add_argument("--sentence-transformers", choices=("cls", "mean", "last"),
                         help="write what SentenceTransformer needs, with this pooling")  # fmt: skip
    convert.add_argument(
        "--overwrite", action="store_true", help="replace the model in OUTPUT when the new is complete"
    )
    convert.add_argument("--restart", action="store_true", help="throw an interrupted conversion's work away")
    convert.add_argument("--digest", choices=("sha256", "xxh3"), help="put one of every tensor into the manifest")
    convert.add_argument("--dry-run", action="store_true", help="print what it would cost, write nothing")
    check = convert.add_mutually_exclusive_group()
    check.add_argument("--check", action="store_const", const="all", default="sample",
                       help="compare every master weight with its 16-bit copy (default: a sample)")  # fmt: skip
    check.add_argument("--no-check", dest="check", action="store_const", const="none", help="compare none")
    convert.add_argument("--replicas", choices=("equal", "first"), default="equal",
                         help="what several ranks hold must be equal, or take the first")  # fmt: skip
    convert.add_argument("--weights-only", action="store_true", help="do not mind an optimizer state of unknown layout")
    convert.add_argument("--quiet", action="store_true", help="no progress bar, no report")
    convert.add_argument("--json", action="store_true", help="print the report as one JSON object")

    inspect = commands.add_parser("inspect", help="tell what a checkpoint holds", description="Read metadata only.")
    inspect.set_defaults(run=_inspect)
    _source(inspect)
    inspect.add_argument("--tensors", action="store_true", help="list every tensor")
    inspect.add_argument("--json", action="store_true", help="print one JSON object")

    verify = commands.add_parser(
        "verify",
        help="check an output or a checkpoint",
        description="Check OUTPUT by itself (headers, index, sizes, config, digests of the manifest), OUTPUT byte for "
        "byte with a checkpoint, or a checkpoint (checksums, agreement, copies, NaN). Exit code 1: something is wrong.",
    )
    verify.set_defaults(run=_verify)
    verify.add_argument("output", metavar="OUTPUT", nargs="?", help="model directory, whatever tool wrote it")
    other = verify.add_mutually_exclusive_group()
    other.add_argument("--against", metavar="CHECKPOINT", action="append",
                       help="compare every byte of OUTPUT with this checkpoint")  # fmt: skip
    other.add_argument("--source", metavar="CHECKPOINT", action="append",
                       help="check this checkpoint instead of an output")  # fmt: skip
    verify.add_argument("--base", metavar="DIR|ID",
                        help="with --against: the --base that the output was made with")  # fmt: skip
    verify.add_argument("--tag", metavar="T", help="which tag of the checkpoint (default: the one `latest` names)")
    verify.add_argument("--quiet", action="store_true", help="no progress bar, print problems only")
    verify.add_argument("--json", action="store_true", help="print the result as one JSON object")
    return parser


def _source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", nargs="+",
                        help="checkpoint-N, or a folder global_stepN; several for nodes' own disks")  # fmt: skip
    parser.add_argument("--tag", metavar="T", help="which tag, or last-complete (default: the one `latest` names)")


def _convert(options: argparse.Namespace) -> int:
    from ..api import consolidate, estimate

    chosen: dict[str, Any] = {
        "tag": options.tag,
        "dtype": options.dtype,
        "max_shard_size": options.max_shard_size,
        "exclude_frozen": options.exclude_frozen,
        "lora": options.lora,
        "adapters": options.adapters,
        "ties": options.ties,
        "include": options.include,
        "exclude": options.exclude,
        "base": options.base,
        "names": options.names,
        "rename": options.rename,
        "allow_missing": options.allow_missing,
        "sentence_transformers": options.sentence_transformers,
        "rescue": options.rescue,
        "fill": options.fill,
    }
    if options.dry_run:
        cost = estimate(options.checkpoint, **chosen)
        print(json.dumps(_plain(cost)) if options.json else texts.cost_text(cost))
        return 0
    with _Bar(hidden=options.quiet or options.json or not sys.stderr.isatty()) as bar:
        report = consolidate(
            options.checkpoint,
            options.output,
            overwrite=options.overwrite,
            restart=options.restart,
            digest=options.digest,
            check=options.check,
            replicas=options.replicas,
            weights_only=options.weights_only,
            progress=bar.show,
            **chosen,
        )
    if options.json:
        print(json.dumps(report.to_dict()))
    elif not options.quiet:
        print(_printable(texts.report_text(report), keep="\n"))
    return 3 if report.rescue else 0


def _inspect(options: argparse.Namespace) -> int:
    from ..api import inspect

    info = inspect(options.checkpoint, tag=options.tag)
    print(
        json.dumps(info.to_dict())
        if options.json
        else _printable(texts.info_text(info, tensors=options.tensors), keep="\n")
    )
    return 0


def _verify(options: argparse.Namespace) -> int:
    from ..audit.verify import verify, verify_source

    if (options.output is None) == (options.source is None):
        raise BadOption("verify takes an output, or --source and a checkpoint")
    with _Bar(hidden=options.quiet or options.json or not sys.stderr.isatty()) as bar:
        if options.source is not None:
            found = verify_source(options.source, tag=options.tag, progress=bar.show)
        else:
            found = verify(
                options.output, against=options.against, tag=options.tag, base=options.base, progress=bar.show
            )
    if options.json:
        print(json.dumps(found.to_dict()))
    elif not options.quiet or not found.ok:
        print(_printable(texts.verification_text(found), keep="\n"))
    return 0 if found.ok else 1


class _Bar:
    """A progress bar in bytes; tqdm is imported when the first bytes are written."""

    def __init__(self, *, hidden: bool) -> None:
        self._hidden = hidden
        self._bar: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    @property
    def show(self) -> Callable[[int, int], None] | None:
        """What to pass as `progress`."""
        return None if self._hidden else self._show

    def _show(self, done: int, total: int) -> None:
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit="B", unit_scale=True, leave=False)
        self._bar.update(done - self._bar.n)


def _plain(cost: Cost) -> dict[str, object]:
    from dataclasses import asdict

    return asdict(cost)


if __name__ == "__main__":
    sys.exit(main())
