"""Options -> the flags with which the command is given them, for a record that is passed on."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from .declaration import in_order
from .values import as_plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .common import Recorded
    from .declaration import Declaration


def flags_of(options: Recorded) -> str:
    """What was given of the options that decide bytes, as it is typed: `--dtype bf16 --include 'model.*'`.

    Of a directory only its last name; a hub id stays one. A function has no flag, and is left out.

    >>> from zeroconsolidate.options import Options
    >>> flags_of(Options(dtype="bf16", include=["model.*"], base="/data/llama", rescue="zeros"))
    "--dtype bf16 --base llama --include 'model.*' --rescue=zeros"
    """
    words = [word for declared in in_order(type(options)) for word in _words(declared, options)]
    return shlex.join(words)


def only_in_python(options: Recorded) -> list[str]:
    """What was given of them that has no flag: functions.

    >>> from zeroconsolidate.options import Options
    >>> only_in_python(Options(dtype="bf16", rename=str.lower))
    ['rename']
    """
    return [
        declared.name
        for declared in in_order(type(options))
        if declared.decides != "nothing"
        and getattr(options, declared.name) != declared.default
        and not list(_words(declared, options))
    ]


def _words(declared: Declaration, options: Recorded) -> Iterator[str]:
    value = getattr(options, declared.name)
    if declared.decides == "nothing" or value == declared.default or callable(value):
        return
    switch = next((each for each in declared.switches if each.value == value), None)
    if switch is not None:
        yield switch.flag
    elif declared.flag is not None:
        plain = as_plain(value, _last_name if declared.is_path else None)
        for each in plain if isinstance(plain, list) else [plain]:
            text = "none" if each is None else str(each)
            # What begins like a flag would be taken for one.
            yield from (f"{declared.flag}={text}",) if text.startswith("-") else (declared.flag, text)


def _last_name(path: str) -> str:
    from ..integrations.hub import is_hub_id

    return path if is_hub_id(path) and not os.path.isdir(path) else os.path.basename(os.path.normpath(path))
