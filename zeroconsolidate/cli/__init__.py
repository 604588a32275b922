"""The command: arguments -> calls of the Python functions, printed results, exit codes. Only this package prints."""

from .command import main

__all__ = ["main"]
