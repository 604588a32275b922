"""Writes docs/reference-options.md, docs/reference-json.md, docs/schemas and the tables in README.md, from the code.

python tools/reference.py
"""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import reference_json
import reference_schemas

from zeroconsolidate.cli.exit_codes import ExitCode
from zeroconsolidate.cli.verbs import ABOUT, declared
from zeroconsolidate.options import (
    AnswersOptions,
    LoadingOptions,
    ReadingOptions,
    StateDictOptions,
    declarations,
    read_as,
)

if TYPE_CHECKING:
    from zeroconsolidate.options import Declaration

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reference-options.md"
JSON_PAGE = ROOT / "docs" / "reference-json.md"
README = ROOT / "README.md"
SCHEMAS = ROOT / "docs" / "schemas"

FUNCTIONS = {
    "convert": "`consolidate` and `estimate`; `consolidate_part` and `finish_parts`",
    "universal": "`universal`",
    "inspect": "`inspect`; `inspect_run`: `files_read`",
    "verify": "`verify`; `verify_source`: `tag`, `checkpoint`, `subset`, `progress`, `status`",
    "compare": "`compare`",
    "watch": "`watch`; `consolidate_in_background` has most of them, and `patience`",
    "prune": "`prune`",
    "env": "there is none",
    "completion": "there is none",
}
"""Verb of the command -> Python's functions for it."""

PYTHON: dict[str, type] = {
    "open_checkpoint": ReadingOptions,
    "compare_answers": AnswersOptions,
    "load_into": LoadingOptions,
    "state_dict": StateDictOptions,
}
"""Functions that no command calls -> what they take."""

HEAD = """\
# Options

Every option of the command and of Python's functions. An option without a flag exists only in Python, one without a
keyword only on the command line. For a flag that can be repeated, Python takes one value or a sequence of values.

Written by `python tools/reference.py` from the declarations in `zeroconsolidate/options/`.
"""


def page() -> str:
    """docs/reference-options.md as it should be."""
    parts = [HEAD]
    for name in ABOUT:
        parts.append(f"## `zeroconsolidate {name}`\n\nIn Python: {FUNCTIONS[name]}.\n")
        parts.append(tables(*declared(name).kinds))
    for function, options in PYTHON.items():
        parts.append(f"## `{function}` in Python\n")
        parts.append(tables(options))
    parts.append(f"## Exit codes\n\n{exit_codes()}\n")
    return "\n".join(parts)


def tables(options: type, *flags: type) -> str:
    """A table for each group of what the dataclasses declare; `options` have a keyword."""
    keywords = {declared.name for declared in declarations(options)}
    named = {declared.name: declared.flags for declared in declarations(options, *flags)}

    def spelled(name: str) -> str:
        return f"`{named[name][0] if named[name] else name}`"

    parts = []
    for group, several in groupby(declarations(options, *flags), key=lambda declared: declared.group):
        rows = [
            row(shown_flags(each), f"`{each.name}`" if each.name in keywords else "",
                f"`{each.type}`", f"`{each.default!r}`", read_as(each.help, spelled))
            for each in several
        ]  # fmt: skip
        head = row("flag", "keyword", "type", "default", "")
        parts.append(f"### {group.value.capitalize()}\n\n{head}\n|---|---|---|---|---|\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def shown_flags(declared: Declaration) -> str:
    """The flags, with what they take."""
    short = [declared.short] if declared.short else []
    if declared.flag is None:
        return ", ".join(f"`{flag}`" for flag in (*short, *declared.flags))
    values = declared.metavar or "|".join(map(str, declared.choices))
    flags = ", ".join(f"`{flag}`" for flag in (*short, f"{declared.flag} {values}"))
    return flags + (", repeatable" if declared.repeatable else "")


def row(*cells: str) -> str:
    """A row of a table; a bar inside a cell is no border."""
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


_LIST = re.compile(r"(?<=<!-- options -->\n).*?(?=<!-- /options -->)", re.DOTALL)
_CODES = re.compile(r"(?<=<!-- exit codes -->\n).*?(?=<!-- /exit codes -->)", re.DOTALL)


def readme() -> str:
    """README.md with the flags of `convert` by group, and the exit codes."""
    lines = []
    for group, several in groupby(declarations(*declared("convert").kinds), key=lambda declared: declared.group):
        lines.append(row(group.value, ", ".join(flag for declared in several for flag in with_default(declared))))
    table = "\n".join([row("", "options"), "|---|---|", *lines])
    text = _LIST.sub(lambda _: f"{table}\n", README.read_text())
    return _CODES.sub(lambda _: f"{exit_codes()}\n", text)


def with_default(declared: Declaration) -> list[str]:
    """The flags of an option, with its default if that is a value one could give."""
    default = declared.default if declared.flag and declared.default not in (None, ()) else None
    return [f"`{flag}`" + (f" (`{default}`)" if default else "") for flag in declared.flags]


def exit_codes() -> str:
    """The table of exit codes."""
    codes = [row(f"{code.value}", code.meaning) for code in ExitCode]
    return "\n".join([row("exit code", ""), "|--:|---|", *codes])


if __name__ == "__main__":
    PAGE.write_text(page())
    JSON_PAGE.write_text(reference_json.page())
    README.write_text(readme())
    for name, text in reference_schemas.schemas().items():
        (SCHEMAS / name).write_text(text)
