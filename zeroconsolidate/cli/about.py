"""What `env` and `completion` print."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ..archive.phrases import counted, listed
from ..errors import MissingPackage
from ..options import size_text
from .arguments import parser
from .rows import rows_text
from .verbs import SHELLS

if TYPE_CHECKING:
    from ..integrations.surroundings import Surroundings

DIRECTORIES = frozenset(("CHECKPOINT", "OUTPUT", "OUTPUT, CHECKPOINT", "RUN_DIR", "DIR", "DIR|ID"))
"""What stands for directories in the command's help: these are completed with names of directories."""


def surroundings_text(found: Surroundings) -> str:
    """To be pasted into a report."""
    there = {name: version for name, version in found.packages.items() if version is not None}
    lacking = [name for name, version in found.packages.items() if version is None]
    memory = "" if found.memory_bytes is None else f", {size_text(found.memory_bytes)} of memory"
    return f"zeroconsolidate {found.zeroconsolidate}\n" + rows_text(
        [
            ("python", found.python),
            ("platform", found.platform),
            ("machine", f"{counted(found.processors, 'processor')}{memory}"),
            ("limits", ", ".join(f"{name} {_limit(name, limit)}" for name, limit in found.limits.items())),
            ("folder", f"{found.file_system}, {size_text(found.free_bytes)} free"),
            *there.items(),
            ("not there", listed(lacking, len(lacking)) or "nothing"),
            ("set", listed(found.variables, len(found.variables)) or "no variable that plays a part"),
        ]
    )


def _limit(name: str, limit: int | None) -> str:
    if limit is None:
        return "unlimited"
    return str(limit) if name == "open files" else size_text(limit)


def completion(shell: str) -> str:
    """The script that completes commands, options and their values in this shell, as shtab makes it of the parser.

    Raises MissingPackage.
    """
    if find_spec("shtab") is None:
        raise MissingPackage("completion needs shtab, which is not installed", remedy="pip install shtab")
    import shtab

    whole = parser()
    for verb in _verbs(whole):
        for action in verb._actions:  # noqa: SLF001  (argparse has no other way to list them)
            if action.metavar in DIRECTORIES:
                action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
            elif action.metavar == "SHELL":
                action.choices = SHELLS
    return str(shtab.complete(whole, shell=shell))


def _verbs(whole: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    (verbs,) = (each for each in whole._actions if isinstance(each, argparse._SubParsersAction))  # noqa: SLF001
    return list(verbs.choices.values())
