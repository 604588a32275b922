"""How an option is declared: a field of a dataclass, with `option(...)` as its default.

    ties: str = option(
        "drop",
        "write a tied weight once (`drop`), or under each of its names (`copy`)",
        group=Group.TENSORS,
        choices=("drop", "copy"),
        decides="bytes",
    )

Everything else is made of that: `--ties {drop,copy}` and its line in `--help`, the keyword `ties` with its type and
default, the check of the value, its place in the manifest, its row in the reference.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from ..errors import BadOption

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

Decides: TypeAlias = Literal["nothing", "bytes", "tensors"]
"""What an option decides about the output: nothing, its bytes, or even which tensors it has and their names.
What decides bytes goes into the fingerprint and the manifest."""

_KEY = "option"
_OTHER = re.compile(r"\{(\w+)\}")


class Group(Enum):
    """The headings under which options are listed, in this order."""

    CHECKPOINT = "which checkpoint"
    OUTPUT = "output"
    TENSORS = "which tensors"
    NAMES = "names"
    ADAPTERS = "adapters"
    INCOMPLETE = "incomplete checkpoints"
    MACHINES = "several machines"
    CHECKING = "checking"
    PRINTING = "progress and printing"


@dataclass(frozen=True, slots=True)
class Switch:
    """A flag without a value of its own."""

    flag: str
    value: object
    """The option's value when this flag is given."""
    help: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """One option, as it was declared."""

    name: str
    """The keyword in Python."""
    type: str
    """As written."""
    default: object
    help: str
    """One sentence, with what is typed in backticks. `{other}` stands for another option, however that is spelled where
    the sentence is read."""
    group: Group
    flag: str | None
    """The flag that takes a value; None if it has only switches, or none at all."""
    switches: tuple[Switch, ...]
    short: str | None
    """A flag of one letter that does the same."""
    also: tuple[str, ...]
    """Its spellings in other programs: understood, but not listed."""
    metavar: str | None
    choices: tuple[object, ...]
    """All allowed values, if they can be listed; also None, if that is the default."""
    repeatable: bool
    """Whether it has several values: the flag may be repeated, the keyword takes a sequence, or one value alone."""
    decides: Decides
    is_path: bool
    """Whether values are directories, which a fingerprint knows by their real paths."""

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags that are listed; none if the option is for Python only."""
        return (*([self.flag] if self.flag else []), *(switch.flag for switch in self.switches))

    @property
    def aliases(self) -> tuple[str, ...]:
        """Other spellings of the first flag."""
        return (*([self.short] if self.short else []), *self.also)

    def normal(self, value: object) -> object:
        """`value` in the form it is kept in. Raises BadOption if it is not one of the choices."""
        if value is None and self.default is None:
            return None
        if self.repeatable and not callable(value):
            return self._several(value)
        if self.choices and value not in self.choices:
            *others, last = map(repr, self.choices)
            raise BadOption(f"{self.name} must be {', '.join(others)} or {last}", found=repr(value))
        return value

    def _several(self, value: object) -> tuple[object, ...]:
        if isinstance(value, (str, os.PathLike)):
            return (value,)  # A text is a sequence too, of letters; nobody means that.
        several = tuple(value) if isinstance(value, Iterable) else (value,)
        if not all(isinstance(each, (str, os.PathLike)) for each in several):
            raise BadOption(f"{self.name} must be a string or several", found=repr(value))
        return several


def option(
    default: T,
    help: str,  # noqa: A002  (as argparse calls it)
    *,
    group: Group,
    flag: str | None = "",
    switches: tuple[Switch, ...] = (),
    short: str | None = None,
    also: tuple[str, ...] = (),
    metavar: str | None = None,
    choices: tuple[object, ...] = (),
    repeatable: bool = False,
    decides: Decides = "nothing",
    is_path: bool = False,
) -> T:
    """A field of a dataclass that declares an option; `Declaration` says what the arguments mean.

    Without `flag`, the flag is the field's name; with None, the option is for Python only. A default of True or False
    makes a switch.
    """
    said = {
        "help": help,
        "group": group,
        "flag": flag,
        "switches": switches,
        "short": short,
        "also": also,
        "metavar": metavar,
        "choices": choices,
        "repeatable": repeatable,
        "decides": decides,
        "is_path": is_path,
    }
    return field(default=default, metadata={_KEY: said})


def declarations(*kinds: type) -> tuple[Declaration, ...]:
    """The options that dataclasses declare, by group, and in each as declared."""
    found = [declared for kind in kinds for declared in in_order(kind)]
    return tuple(sorted(found, key=lambda declared: _RANK[declared.group]))


def in_order(kind: type) -> tuple[Declaration, ...]:
    """The options that a dataclass declares, as declared."""
    return _in_order(kind)


@cache
def _in_order(kind: type) -> tuple[Declaration, ...]:
    found = []
    for each in fields(kind):
        if _KEY in each.metadata:
            said: dict[str, Any] = dict(each.metadata[_KEY])
            has_flag = said["flag"] is not None
            if said["flag"] == "":
                said["flag"] = None if said["switches"] or isinstance(each.default, bool) else spelled(each.name)
            if isinstance(each.default, bool) and not said["switches"]:
                said["switches"] = (Switch(spelled(each.name), not each.default, said["help"]),) if has_flag else ()
                said["choices"] = (False, True)
            found.append(Declaration(name=each.name, type=str(each.type), default=each.default, **said))
    return tuple(found)


def spelled(name: str) -> str:
    """A name as a flag."""
    return f"--{name.replace('_', '-')}"


def for_command(text: str) -> str:
    """A help sentence without its last part, if that is about Python.

    >>> for_command("the names; in Python, a function too")
    'the names'
    """
    return text.partition("; in Python,")[0]


def read_as(text: str, spelling: Callable[[str], str]) -> str:
    """A help sentence with other options spelled as the reader must write them."""
    return _OTHER.sub(lambda match: spelling(match[1]), text)


_RANK = {group: rank for rank, group in enumerate(Group)}
