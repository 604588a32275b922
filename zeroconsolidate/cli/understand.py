"""The words of a command line -> the command, its paths and its options.

Spellings of other programs are understood too. For an unknown word the error names the nearest known one.
"""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from ..archive.phrases import counted
from ..options import declarations
from .arguments import Misuse, nearest, parser
from .verbs import ABOUT, SHELLS, declared

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

_ASKED_ANYWAY = ("--safe-serialization",)
"""Flags of zero_to_fp32 that ask for what is always done."""

_NEEDS = {"inspect": "CHECKPOINT", "watch": "RUN_DIR", "prune": "RUN_DIR"}
"""Command -> what it takes at least one of."""

_INSTEAD = {
    "-f": "did you mean --overwrite?",
    "--force": "did you mean --overwrite?",
    "-d": "did you mean --debug?",
    "-o": "OUTPUT is the last argument, without an option",
    "--out": "OUTPUT is the last argument, without an option",
    "--output": "OUTPUT is the last argument, without an option",
    "--output-dir": "OUTPUT is the last argument, without an option",
    "--no-quiet": "leave it out; that is the default",
    "--verbose": "leave it out; --json prints everything",
    "-v": "leave it out; --json prints everything",
}
"""Options of other programs -> what to do instead."""


def understand(words: Sequence[str]) -> argparse.Namespace:
    """The parsed command line: `verb`, the paths that the verb takes, and an attribute for every option given.

    Raises Misuse.
    """
    words = [_respelled(word) for word in words]
    words = _with_verb([word for word in words if word not in _ASKED_ANYWAY])
    given, rest = parser(words[0]).parse_known_args(words)
    unknown = [word for word in rest if word.startswith("-") and word != "-"]
    if unknown:
        raise _no_such_option(given.verb, unknown[0])
    # argparse takes the paths before the first option only.
    if given.verb in ("verify", "compare"):
        given.paths += rest
    else:
        given.roots = [*getattr(given, "roots", ()), *rest]
    if given.verb == "compare":
        _split_pair(given)
    elif declared(given.verb).writes:
        _split_output(given)
    elif given.verb in _NEEDS and not given.roots:
        needed = _NEEDS[given.verb]
        raise Misuse(f"{given.verb} needs a {needed}", remedy=f"zeroconsolidate {given.verb} {needed}")
    if given.verb == "watch":
        _split_pattern(given)
    elif given.verb == "env" and given.roots:
        raise Misuse("env takes no paths", found=shlex.join(given.roots), remedy="zeroconsolidate env")
    elif given.verb == "completion" and (len(given.roots) != 1 or given.roots[0] not in SHELLS):
        raise Misuse(
            "completion needs a shell",
            expected=f"one of {', '.join(SHELLS)}",
            found=shlex.join(given.roots) or None,
            remedy="zeroconsolidate completion bash",
        )
    return given


def _split_pattern(given: argparse.Namespace) -> None:
    """The last path is a pattern if it says where each save goes."""
    *_, last = given.roots
    given.output = given.roots.pop() if len(given.roots) > 1 and ("{name}" in last or "{step}" in last) else None
    if given.output is None and len(given.roots) > 1 and not os.path.exists(last):
        raise Misuse(
            f"all models would be written to {last}",
            expected="a pattern with {name} or {step} in it",
            remedy=f"zeroconsolidate watch {shlex.join([*given.roots[:-1], f'{last}/{{name}}'])}",
        )


def _respelled(word: str) -> str:
    """`--max_shard_size=5GB` as `--max-shard-size=5GB`."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else word


def _with_verb(words: list[str]) -> list[str]:
    """The words with a verb first. A path in its place is a checkpoint to convert."""
    if not words:
        raise Misuse("the command is missing", expected=", ".join(ABOUT), remedy="zeroconsolidate --help")
    first = words[0]
    if first in ABOUT or first in ("-h", "--help", "--version"):
        return words
    if first.startswith("-"):
        raise Misuse("the command is missing", remedy=f"zeroconsolidate convert {shlex.join(words)}")
    if os.path.exists(first) or os.path.dirname(first):
        return ["convert", *words]
    near = nearest(first, ABOUT)
    raise Misuse(
        f"there is no command {first!r}, nor such a directory",
        expected=", ".join(ABOUT),
        remedy=f"did you mean {near}?" if near else None,
    )


def _split_output(given: argparse.Namespace) -> None:
    if given.output is not None:
        given.roots.append(given.output)
    if len(given.roots) < 2:
        there = shlex.join(given.roots) or "CHECKPOINT"
        lacks = "an OUTPUT directory as well" if given.roots else "a CHECKPOINT and an OUTPUT directory"
        raise Misuse(f"{given.verb} needs {lacks}", remedy=f"zeroconsolidate {given.verb} {there} OUTPUT")
    given.output = given.roots.pop()


def _split_pair(given: argparse.Namespace) -> None:
    if len(given.paths) != 2:
        there = shlex.join([*given.paths, *"AB"[len(given.paths) :]][:2])
        raise Misuse(
            "compare takes two models",
            found=counted(len(given.paths), "path") if given.paths else None,
            remedy=f"zeroconsolidate compare {there}",
        )
    given.a, given.b = given.paths


def _no_such_option(verb: str, word: str) -> Misuse:
    name = word.partition("=")[0]
    own = _flags(verb)
    others = [other for other in ABOUT if other != verb and name in _flags(other)]
    near = nearest(name, [*own, *_INSTEAD] if verb == "convert" else own)
    if name in _INSTEAD and verb == "convert":
        remedy = _INSTEAD[name]
    elif near in _INSTEAD:
        remedy = _INSTEAD[near]
    elif others:
        remedy = f"it is an option of {' and '.join(others)}"
    elif near:
        remedy = f"did you mean {near}?"
    else:
        remedy = f"zeroconsolidate {verb} --help lists the options"
    forms = "\n       ".join(f"zeroconsolidate {verb} [OPTION ...] {form}" for form in declared(verb).forms)
    return Misuse(f"{verb} has no option {name}", remedy=remedy, usage=f"usage: {forms}")


def _flags(verb: str) -> list[str]:
    return [flag for each in declarations(*declared(verb).kinds) for flag in (*each.flags, *each.aliases)]
