"""Errors name options as the command spells them; to a caller from Python they speak of keywords.

replace its model with --overwrite                  replace its model with overwrite=True
write them fused with --names in-memory             write them fused with names="in-memory"
the weights in --base cannot be read                the weights in base cannot be read
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from ..errors import ZeroConsolidateError
from .declaration import declarations

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .declaration import Declaration

_FLAG = re.compile(r"(?<![\w-])(--[a-z][a-z-]*(?:=[a-z]+)?)(?: ('[^']*'|[^\s,;:()]+))?")
_TEXT = r'"[^"]*"'
_REPEATED = re.compile(rf"(\w+)={_TEXT}(?: \1={_TEXT})+")
_COMMAND = re.compile(
    r"(?<![\w./-])zeroconsolidate (?:convert|universal|inspect|verify|watch|prune|compare|env|completion) "
)
"""A line for the shell stays one."""
_FUNCTIONS = {"--part": "consolidate_part", "--finish": "finish_parts"}
"""Flags that are functions in Python."""
_VALUE = re.compile(r"'.*'|[A-Z]+(?:[=|][A-Z]+)*|\S*[=/_]\S*|last-complete|\d\S*|none")
"""What stands for a value behind a flag: quoted, in capitals, or with a sign that words do not have. An ordinary word
is the next one of the sentence."""


def to_python(error: ZeroConsolidateError) -> None:
    """Have the error speak of keywords. `as_typed` undoes it."""
    if error.typed:
        return
    error.typed = {part: getattr(error, part) for part in ("message", "expected", "found", "consequence", "remedies")}
    for part, text in error.typed.items():
        if isinstance(text, str):
            setattr(error, part, keywords(text))
        elif text is not None:
            setattr(error, part, tuple(map(keywords, text)))


@contextmanager
def in_python() -> Iterator[None]:
    """Have errors that leave the block speak of keywords."""
    try:
        yield
    except ZeroConsolidateError as error:
        to_python(error)
        raise


def as_typed(error: ZeroConsolidateError) -> None:
    """Have the error speak of flags again."""
    for part, text in error.typed.items():
        setattr(error, part, text)
    error.typed = {}


def keywords(text: str) -> str:
    """A sentence with keywords in place of flags.

    >>> keywords("write it anyway with --allow-missing, or --rename FROM=TO; --rename takes FROM=TO")
    'write it anyway with allow_missing=True, or rename="FROM=TO"; rename takes FROM=TO'
    """
    return text if _COMMAND.search(text) else _REPEATED.sub(_together, _FLAG.sub(_keyword, text))


def _keyword(match: re.Match[str]) -> str:
    flag, word = match[1], match[2]
    switches, valued = _known()
    rest = "" if word is None else f" {word}"
    if flag in _FUNCTIONS:
        return f"{_FUNCTIONS[flag]}{rest}"
    if flag in switches:
        name, value = switches[flag]
        return f"{name}={_shown(value)}{rest}"
    declared = valued.get(flag)
    if declared is None:
        return match[0]
    if word is not None and (word in declared.choices or _VALUE.fullmatch(word)):
        return f"{declared.name}={_shown(None if word == 'none' else word.strip(chr(39)))}"
    return f"{declared.name}{rest}"


def _together(match: re.Match[str]) -> str:
    """A flag may be repeated, a keyword takes several values."""
    return f"{match[1]}=[{', '.join(re.findall(_TEXT, match[0]))}]"


def _shown(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


@cache
def _known() -> tuple[Mapping[str, tuple[str, object]], Mapping[str, Declaration]]:
    """Flags that stand for a value, and flags that take one."""
    from .compare import CompareOptions
    from .follow import BackgroundOptions, WatchOptions
    from .prune import PruneOptions
    from .verify import VerifyOptions

    every = declarations(WatchOptions, BackgroundOptions, VerifyOptions, CompareOptions, PruneOptions)
    switches = {switch.flag: (declared.name, switch.value) for declared in every for switch in declared.switches}
    return switches, {declared.flag: declared for declared in every if declared.flag is not None}
