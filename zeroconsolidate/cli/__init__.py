"""The command: arguments -> calls of Python's functions, printed results, exit codes. Only this package prints."""

from .command import main

__all__ = ["main"]
