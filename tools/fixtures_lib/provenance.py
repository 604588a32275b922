"""provenance.json: how a fixture was made, which names it holds, and the sha256 of every file in it.

Training again with the same versions gives the same bytes, but for the padding at the end of ZeRO-3's partitions, which
DeepSpeed never fills.
"""

from __future__ import annotations

import json
import platform
from importlib import metadata
from typing import TYPE_CHECKING, Any

from shared.folders import RECORD, digests

if TYPE_CHECKING:
    from pathlib import Path

    from .truth import Truth


def write(folder: Path, *, case: str, description: str, packages: tuple[str, ...] = (), **facts: Any) -> None:
    """Describe what lies in `folder`. `packages` are named with their versions besides torch, deepspeed and numpy."""
    record = {
        "case": case,
        "description": description,
        "command": f"python tools/make_fixtures.py --only {case}",
        "versions": {
            "python": platform.python_version(),
            **{package: metadata.version(package) for package in ("deepspeed", "torch", "numpy", *packages)},
        },
        **facts,
        "sha256": digests(folder),
    }
    (folder / RECORD).write_text(json.dumps(record, indent=1, default=repr) + "\n")


def names(values: Truth) -> dict[str, Any]:
    return {
        "trainable": values.trainable,
        "frozen": values.frozen,
        "buffers": values.buffers,
        "non_persistent": values.non_persistent,
        "ties": values.ties,
    }
