"""Staged files -> final names. If it is interrupted, it can be done again."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from ..archive.model_files import (
    ADAPTER_CONFIG,
    BESIDE_FOLDER,
    DIFFUSERS_WEIGHTS,
    INDEX_NAME,
    MANIFEST_NAME,
    NON_LORA_WEIGHTS,
    OPTIMIZER_FOLDER,
    PICKLE_INDEX_NAME,
    is_weights,
)
from ..errors import OutputFailed
from .system import remove, sync_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

INDICES = (INDEX_NAME, PICKLE_INDEX_NAME, f"{DIFFUSERS_WEIGHTS}.index.json")
_OPTIMIZER_FILE = re.compile(r"optimizer(-[0-9]{5}-of-[0-9]{5})?\.safetensors(\.index\.json)?|optimizer\.json")
# What describes a set of weights must never stand beside weights of another set, not even between two renames.
DESCRIBES = (*INDICES, MANIFEST_NAME)


def is_optimizer_file(name: str) -> bool:
    """Whether a file of this name holds what the optimizer keeps of weights.

    >>> is_optimizer_file("optimizer.safetensors"), is_optimizer_file("model.safetensors")
    (True, False)
    """
    return _OPTIMIZER_FILE.fullmatch(name) is not None


def rename(
    output: str, staged: Callable[[str], str], names: Sequence[str], sizes: Mapping[str, int], *, overwrite: bool
) -> None:
    """Rename the file `staged(name)` to `output/name`, for all names in order, then sync the folders.

    With `overwrite`, weights and optimizer states in `output` that are not among the names are removed. The system's
    errors pass through; raises OutputFailed if a file is neither staged nor, with its size, in place.
    """
    if overwrite:
        for old in DESCRIBES:
            if old not in sizes or os.path.lexists(staged(old)):
                remove(os.path.join(output, old))
    folders = {output}
    for name in names:
        target = os.path.join(output, name)
        if os.path.lexists(staged(name)):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.replace(staged(name), target)
        elif not os.path.isfile(target) or os.path.getsize(target) != sizes[name]:
            raise OutputFailed(f"the finished file {name} has been removed", remedy="start over with --restart")
        folders.add(os.path.dirname(target))
    if overwrite:
        beside = f"{BESIDE_FOLDER}/{NON_LORA_WEIGHTS}"
        if beside not in sizes:
            remove(os.path.join(output, beside))
        for old in os.listdir(output):
            if old not in sizes and (is_weights(old) or old in (*INDICES, ADAPTER_CONFIG)):
                remove(os.path.join(output, old))
        _remove_optimizer(output, sizes)
    for folder in sorted(folders):
        sync_directory(folder)


def _remove_optimizer(output: str, sizes: Mapping[str, int]) -> None:
    """Remove optimizer states of other weights than those that stand beside them now."""
    folder = os.path.join(output, OPTIMIZER_FOLDER)
    if not os.path.isdir(folder) or os.path.islink(folder):
        return
    for old in os.listdir(folder):
        if f"{OPTIMIZER_FOLDER}/{old}" not in sizes and is_optimizer_file(old):
            remove(os.path.join(folder, old))
