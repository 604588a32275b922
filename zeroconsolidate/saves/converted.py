"""Directories -> the models that were made of which saves, by their manifests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..archive.manifest_file import read_manifest
from ..archive.regular import scan
from ..errors import ZeroConsolidateError
from ..options.urls import normal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MODELS = "{run}-models/{name}"
"""Where the model of a save is written if nothing else is said: outside of the run directory, in which trainers remove
folders that look like old saves (`checkpoint-*` the Trainer, any folder accelerate)."""


def converted_by(root: str, models: Sequence[str] = ()) -> dict[tuple[str, int | None], list[str]]:
    """(tag, step) -> the model directories made of that save. They are looked for in the run directory, in the usual
    place beside it, and in `models`: directories of models, or models."""
    found: dict[tuple[str, int | None], list[str]] = {}
    places = dict.fromkeys([*models, f"{normal(root)}-models", normal(root)])
    for directory in dict.fromkeys(path for place in places for path in _candidates(place)):
        source = made_of(directory)
        if source is not None:
            found.setdefault(source, []).append(directory)
    return found


def made_of(directory: str) -> tuple[str, int | None] | None:
    """(tag, step) of the save that a finished output was made of; None if it is no output of ours, or of several
    saves: a mean is the model of none of them."""
    try:
        manifest = read_manifest(directory)
    except (ZeroConsolidateError, OSError):
        return None
    if manifest is None or manifest.get("averaged"):
        return None
    tag, step = manifest["source"].get("tag"), manifest["source"].get("step")
    return (tag, step if isinstance(step, int) else None) if isinstance(tag, str) else None


def _candidates(place: str) -> Iterator[str]:
    yield place
    try:
        entries = sorted(scan(place), key=lambda entry: entry.name)
    except (OSError, ZeroConsolidateError):
        return
    for entry in entries:
        if not entry.name.startswith(".") and entry.is_dir():
            yield entry.path
