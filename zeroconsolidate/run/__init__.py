"""Execution: a plan and a block of memory -> bytes in files. Knows nothing of ZeRO."""

from . import registered  # noqa: F401  (whoever reads finds the readers of the plan's recipes)
