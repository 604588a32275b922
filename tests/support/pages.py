"""The pages that people read, in the order of reading, and a clone of the repository to run their commands in."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import preloaded
from command import PROGRAM
from command import REPOSITORY as ROOT
from website.index import sections

if TYPE_CHECKING:
    from pathlib import Path

README = ROOT / "README.md"
INDEX = ROOT / "docs/index.md"
LISTED = [(ROOT / "docs" / path).resolve() for _, entries in sections(INDEX.read_text()) for _, path, _ in entries]
"""As the index lists them, those outside of docs/ with the others."""

PAGES = [README, INDEX, *(page for page in LISTED if page.is_relative_to(ROOT / "docs"))]
WRITTEN = sorted((ROOT / "docs").rglob("*.md"))
"""What is in docs/, whether it is listed or not."""


def clone(folder: Path, python: str | None = None) -> Path:
    """A folder in which the commands of a page can be run as in a fresh clone. The command is in `.bin`.

    `python`: what starts other processes; by default one that has transformers imported already.
    """
    bin_ = folder / ".bin"
    bin_.mkdir()
    (folder / "tests").symlink_to(ROOT / "tests")
    commands = {
        "python": f'#!/bin/sh\nexec "{sys.executable}" "$@"\n',
        "zeroconsolidate": f"#!{sys.executable}{PROGRAM.format(python=python or preloaded.python())}",
    }
    for name, text in commands.items():
        (bin_ / name).write_text(text)
        (bin_ / name).chmod(0o755)
    return folder


def shell(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of a page in `folder`, which `clone` made; stdout has stderr in it."""
    surroundings = os.environ | {"PATH": f"{folder / '.bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        ["sh", "-c", text],
        cwd=folder,
        env=surroundings,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
