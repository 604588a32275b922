"""What `--executor` may be called. Nothing of an engine is imported to know that."""

from __future__ import annotations

import re

from ..errors import BadOption

_NAMED = re.compile(r"(ray|dask)(?:://(\S+))?|mpi")


def refuse_unknown(name: str) -> None:
    """Raises BadOption for what names no engine."""
    if _NAMED.fullmatch(name) is None:
        raise BadOption(
            "an executor is ray, dask or mpi",
            expected="ray://HOST:PORT or dask://HOST:PORT, for a cluster elsewhere",
            found=name,
        )
