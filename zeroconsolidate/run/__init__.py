"""DO IT: a plan and a block of memory become bytes in files. Knows nothing of ZeRO."""

from . import registered  # noqa: F401  (whoever reads finds the readers of the plan's recipes)
