"""Where tests write, and what lies there afterwards."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from zeroconsolidate.write.refusals import STAGING

if TYPE_CHECKING:
    from pathlib import Path

MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
"""A file system in memory: hundreds of syncs to a disk would take minutes."""


def final(out: Path) -> list[str]:
    """What lies in the output under a final name; staged work is not that."""
    return sorted(path.name for path in out.iterdir() if path.name != STAGING) if out.exists() else []


def contents(directory: Path) -> dict[str, bytes]:
    """Every file below, by its path from there."""
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}
