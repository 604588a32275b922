"""The command in a process that lacks something: packages, calls of the system, or the system itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from command import python

if TYPE_CHECKING:
    from subprocess import CompletedProcess
    from typing import TypeAlias

    Completed: TypeAlias = CompletedProcess[str]

HEAVY = ("torch", "transformers", "peft", "deepspeed", "huggingface_hub", "xxhash")
"""What an installation without extras does not have."""

_HIDE = """
import importlib.machinery, sys
hidden = set({hidden!r})

class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else super().find_spec(name, path, target)

sys.meta_path[:] = [Finder if each is importlib.machinery.PathFinder else each for each in sys.meta_path]
"""

_RUN = """
import sys
from zeroconsolidate.cli import main
sys.exit(main(sys.argv[1:]))
"""

_TAKE = """
import errno, fcntl, mmap, os, resource, sys
for module, name in {calls!r}:
    delattr(sys.modules[module], name)
"""

WINDOWS = """
import builtins, signal, sys
sys.platform = "win32"
for name in ("SIGHUP", "SIGPIPE"):
    delattr(signal, name)
for name in ("fcntl", "resource", "pwd", "grp"):
    sys.modules[name] = None
"""


def without_packages(code: str, *arguments: object, hidden: tuple[str, ...] = HEAVY) -> Completed:
    """A program in whose process these packages are not installed."""
    return python(_HIDE.format(hidden=hidden) + code, *arguments)


def command_without(*arguments: object, hidden: tuple[str, ...] = HEAVY) -> Completed:
    """The command, likewise."""
    return without_packages(_RUN, *arguments, hidden=hidden)


def command_lacking(calls: list[tuple[str, str]], *arguments: object, before: str = "") -> Completed:
    """The command where modules lack these functions and constants, as on another system. `before`: code."""
    return python(_TAKE.format(calls=calls) + before + _RUN, *arguments)


def on_windows(code: str = _RUN, *arguments: object) -> Completed:
    """A program that finds what it would find on Windows, as far as it is asked here."""
    return python(WINDOWS + code, *arguments)
