"""The commands and the options they declare -> the argument parser; what it understood -> keywords and flags."""

from __future__ import annotations

import argparse
import re
from dataclasses import fields
from itertools import groupby
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from .._version import __version__
from ..errors import BadOption, Parts
from ..options import declarations, for_command, read_as
from .exit_codes import ExitCode
from .verbs import ABOUT, declared

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from typing_extensions import Unpack

    from ..options import Declaration

Flags = TypeVar("Flags")


def parser(only: str | None = None) -> argparse.ArgumentParser:
    """The parser. Its result has `verb`, and an attribute for every flag that was given.

    `only`: the first word of the command line that it is for. If that is a command, the parser knows no other, and if
    it is not, no options of any.
    """
    whole = _Parser(
        prog="zeroconsolidate",
        usage="zeroconsolidate COMMAND [OPTION ...] PATH ...",
        description="Turn a DeepSpeed ZeRO checkpoint into a model directory that loads.",
        formatter_class=_Formatter,
    )
    whole.add_argument("--version", action="version", version=f"zeroconsolidate {__version__}")
    verbs = whole.add_subparsers(required=True, metavar="COMMAND", dest="verb")
    for name, about in ABOUT.items():
        if only is None or only == name:
            _add_verb(verbs.add_parser(name, help=about, **_shown(name)), name)
        elif only not in ABOUT:
            verbs.add_parser(name, help=about)
    return whole


def _shown(name: str) -> dict[str, Any]:
    """What the help of a command says beside its options."""
    verb = declared(name)
    forms = [f"zeroconsolidate {name} [OPTION ...] {form}".rstrip() for form in verb.forms]
    return {
        "usage": "\n       ".join(forms),
        "description": verb.description,
        "examples": verb.examples,
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }


def _add_verb(own: argparse.ArgumentParser, name: str) -> None:
    """The paths and the options of a command."""
    verb = declared(name)
    if verb.paths is not None:
        # How many there must be is checked afterwards: argparse says it in fifteen lines.
        own.add_argument(verb.paths.name, metavar=verb.paths.metavar, nargs="*", help=verb.paths.help)
    if verb.writes:
        own.add_argument(
            "output", metavar="OUTPUT", nargs="?", help="directory to write; it must be empty, or not exist"
        )
    add_options(own, *verb.kinds)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """A formatter that gives every command a line of its own: argparse forgets by how much they are indented."""

    def add_argument(self, action: argparse.Action) -> None:
        super().add_argument(action)
        if action.nargs == argparse.PARSER:
            self._action_max_length += self._indent_increment


class _Parser(argparse.ArgumentParser):
    """A parser that raises errors and does not print them. Examples and exit codes end its help."""

    def __init__(self, *, examples: Sequence[str] = (), **parts: Any) -> None:
        super().__init__(**parts)
        self._examples = examples

    def error(self, message: str) -> NoReturn:
        about = _ABOUT_OPTION.fullmatch(message)
        option = self._option_string_actions.get(about["flag"]) if about else None
        if about is None or option is None:
            raise Misuse(message, usage=self.format_usage())
        flag, problem = about["flag"], about["problem"]
        choices = [str(choice) for choice in option.choices or ()]
        taken = spoken(choices) if choices else str(option.metavar)
        chosen = _CHOICE.match(problem)
        if chosen is not None:
            near = nearest(chosen[1], choices)
            remedy = f"did you mean {near}?" if near else None
            raise Misuse(f"{flag} takes {taken}", found=repr(chosen[1]), remedy=remedy)
        if problem == "expected one argument":
            raise Misuse(f"{flag} needs a value", expected=taken)
        raise Misuse(problem.replace("not allowed with argument", f"{flag} cannot be used with"))

    def format_help(self) -> str:
        """What `--help` prints."""
        examples = "".join(f"\n  {line}" for line in self._examples)
        self.epilog = (f"examples:{examples}\n\n" if examples else "") + f"exit codes:\n{_exit_codes()}"
        return super().format_help()


def _exit_codes() -> str:
    """A paragraph for each, as wide as argparse makes those of the options."""
    # Both are imported only where help is printed, as argparse itself does.
    import shutil
    import textwrap

    digits, columns = max(len(str(code.value)) for code in ExitCode), shutil.get_terminal_size().columns - 2
    return "\n".join(
        textwrap.fill(
            f"{code.value:>{digits}}  {code.meaning.replace('`', '')}",
            max(columns, 40),
            initial_indent="  ",
            subsequent_indent=" " * (digits + 4),
        )
        for code in ExitCode
    )


_ABOUT_OPTION = re.compile(r"argument (?:-\w/)?(?P<flag>-[-=\w]+): (?P<problem>.*)", re.DOTALL)
_CHOICE = re.compile(r"invalid choice: '(.*)' \(choose from")
"""What argparse says of an option, in English: it has no translations of its own."""


def spoken(choices: Sequence[str]) -> str:
    """The choices in words.

    >>> spoken(["cls", "mean", "last"])
    'cls, mean or last'
    """
    return " or ".join(filter(None, (", ".join(choices[:-1]), choices[-1])))


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is most like `word`, if one is."""
    from difflib import get_close_matches

    near = get_close_matches(word, list(known), n=1)
    return near[0] if near else None


class Misuse(BadOption):
    """The command line cannot be understood."""

    def __init__(self, message: str, *, usage: str = "", **parts: Unpack[Parts]) -> None:
        super().__init__(message, **parts)
        self.usage = usage
        """The forms that there are, where that helps."""


def add_options(verb: argparse.ArgumentParser, *kinds: type) -> None:
    """Add the flags of all options that `kinds` declare, each under the heading of its group.

    None has a default here: what was not given is not in the namespace, and the dataclass's default holds.
    """
    declared = [each for each in declarations(*kinds) if each.flags]
    flags = {each.name: each.flags[0] for each in declared}

    def shown(text: str) -> str:
        return read_as(for_command(text), flags.__getitem__).replace("`", "").replace("%", "%%")

    for group, several in groupby(declared, key=lambda each: each.group):
        heading = verb.add_argument_group(group.value)
        for each in several:
            _add(heading, each, shown)


def _add(group: argparse._ArgumentGroup, declared: Declaration, shown: Callable[[str], str]) -> None:
    if declared.flag is not None:
        notes = [
            *([f"default: {declared.default}"] if declared.default not in (None, ()) else []),
            *(["can be repeated"] if declared.repeatable else []),
        ]
        said = shown(declared.help) + (f" [{'; '.join(notes)}]" if notes else "")
        how: dict[str, Any] = {
            "action": "append" if declared.repeatable else "store",
            "metavar": declared.metavar,
            "choices": declared.choices or None,
        }
        _spell(group, declared, declared.flag, said, how)
    switches = group if len(declared.switches) < 2 else group.add_mutually_exclusive_group()
    for switch in declared.switches:
        how = {"action": "store_const", "const": switch.value}
        _spell(switches, declared, switch.flag, shown(switch.help), how)


def _spell(group: argparse._ActionsContainer, declared: Declaration, flag: str, said: str, how: dict[str, Any]) -> None:
    """Add a flag. Other spellings of an option's first flag are understood; only that of one letter is listed."""
    how = how | {"dest": declared.name, "default": argparse.SUPPRESS}
    is_first = flag == declared.flags[0]
    letter = [declared.short] if is_first and declared.short else []
    group.add_argument(*letter, flag, help=said, **how)
    if is_first and declared.also:
        group.add_argument(*declared.also, help=argparse.SUPPRESS, **how)


def given_of(kind: type, given: argparse.Namespace) -> dict[str, Any]:
    """The options of `kind` that were given, as Python's keywords."""
    return {each.name: getattr(given, each.name) for each in fields(kind) if hasattr(given, each.name)}


def flags_of(kind: type[Flags], given: argparse.Namespace) -> Flags:
    """The flags that only the command has, as a dataclass of `kind`."""
    return kind(**given_of(kind, given))
