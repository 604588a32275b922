"""Small JSON files that lie beside a checkpoint or a model."""

from __future__ import annotations

import json
from typing import Any

from ..errors import DamagedFile, at, reason
from .regular import read_small

MAX_BYTES = 1 << 24
"""A larger file is refused: configurations take a few kilobytes."""


def read_json(path: str) -> dict[str, Any]:
    """The object in the file. Raises DamagedFile if it cannot be read, is too large, or is no JSON object."""
    with at(path):
        try:
            value = json.loads(read_small(path, MAX_BYTES).decode("utf-8"))
        except OSError as error:
            raise DamagedFile(f"the file cannot be read: {reason(error)}") from None
        except (ValueError, RecursionError) as error:
            if isinstance(error, DamagedFile):
                raise
            raise DamagedFile(f"the file is not JSON: {error}") from None
        if not isinstance(value, dict):
            raise DamagedFile("the file holds no JSON object", found=type(value).__name__)
        return value
