"""A directory -> the content of its `zeroconsolidate.json`, which is not trusted."""

from __future__ import annotations

import os
from typing import Any

from ..errors import DamagedFile, at
from .json_file import parse_object
from .model_files import MANIFEST_NAME
from .places import exists
from .printable import described
from .regular import read_small

MAX_MANIFEST_BYTES = 1 << 28
"""A longer manifest is refused. A tensor takes 200 bytes."""


def read_manifest(directory: str) -> dict[str, Any] | None:
    """The manifest, None if the directory has none. Raises DamagedFile if it is not a manifest of a version we know."""
    path = os.path.join(directory, MANIFEST_NAME)
    if not exists(path):
        return None
    with at(path):
        manifest = parse_object(read_small(path, MAX_MANIFEST_BYTES), "the manifest")
        if manifest.get("manifest") != 1:
            raise DamagedFile("the manifest has a version that this library does not know")
        if not all(isinstance(manifest.get(key), dict) for key in ("files", "tensors", "options", "source")):
            raise DamagedFile("the manifest lacks a part", expected="files, tensors, options and source")
        for entry in (*manifest["files"].values(), *manifest["tensors"].values()):
            if not isinstance(entry, dict) or not isinstance(entry.get("bytes", 0), int):
                raise DamagedFile("an entry of the manifest does not describe a file or tensor", found=described(entry))
    return manifest
