"""A fixture's folder: what is left out of it, what it weighs, and the digests by which it is known."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

COPIED_SCRIPTS = ("zero_to_fp32.py", "zero_to_torch.py")
"""DeepSpeed puts these beside every checkpoint; they are its code, not its data."""
RECORD = "provenance.json"
"""How the fixture was made."""


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 by path relative to `folder`, of everything but the record itself."""
    return {
        path.relative_to(folder).as_posix(): digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != RECORD
    }


def size_bytes(folder: Path) -> int:
    """Bytes of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
