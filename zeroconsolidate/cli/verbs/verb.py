"""What the declaration of a command consists of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """What a command takes besides options."""

    help: str
    metavar: str
    name: str = "roots"
    """The attribute that they are in when the command line is parsed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """A command."""

    description: str
    forms: tuple[str, ...]
    """The forms of its arguments."""
    paths: Paths | None
    kinds: tuple[type, type]
    """Its options: those that Python has too, and its own."""
    examples: tuple[str, ...]
    writes: bool = False
    """Whether its last path is an OUTPUT."""
    continues: bool = False
    """Whether it goes on with what was interrupted if it is run again."""


CHECKPOINTS = Paths(
    help="a Trainer's checkpoint-N, a folder global_stepN, or a run directory; several if nodes saved to their own "
    "disks",
    metavar="CHECKPOINT",
)

RUN_DIRECTORIES = "a directory with checkpoint-500 and so on, or of tags; several if nodes saved to their own disks"
