"""The commands: what each takes, and what its help says. What they do is in :mod:`..actions`.

Each is declared in its own module, which is imported when that command is used: the options of the others need not be.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .verb import Verb

SHELLS = ("bash", "zsh", "fish")
"""Shells for which there is a completion."""

ABOUT = {
    "convert": "write the model of a checkpoint, to load or upload it",
    "universal": "write a universal checkpoint, to resume on other ranks or at another stage",
    "inspect": "print what a checkpoint holds, or the saves of a run, and where training can resume",
    "verify": "check a model, a checkpoint, or a model against its checkpoint",
    "compare": "compare two models: what differs, by how much, and what is suspicious",
    "watch": "convert each save of a run as it appears",
    "prune": "free disk space: remove what resuming no longer needs",
    "env": "print what a report of a bug needs: versions, file system, limits",
    "completion": "print a script with which a shell completes commands and options",
}
"""Command -> what it does, in one line, for the list of commands."""


def declared(verb: str) -> Verb:
    """The declaration of a command of ABOUT."""
    found: Verb = import_module(f"{__name__}.{verb}").VERB
    return found
