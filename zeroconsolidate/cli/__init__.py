"""The command: arguments -> calls of the Python functions, printed results, exit codes. Only this package prints."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ..errors import UnsupportedSystem
from ..integrations.packages import refuse_windows

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    try:
        refuse_windows()
    except UnsupportedSystem as error:
        sys.stderr.write(f"zeroconsolidate: {error}\n")
        return 2  # ExitCode.ERROR, whose module names signals that Windows does not have
    from .command import main as run

    return run(argv)
