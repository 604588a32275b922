"""ARGUMENTS AND PRINTING: the command, what it prints and its exit codes. The only place that prints."""

from .command import main

__all__ = ["main"]
