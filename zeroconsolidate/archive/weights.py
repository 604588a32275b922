"""The weights of a model directory, whatever tool wrote it: safetensors, or pickles read without running them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import DamagedFile, NotACheckpoint, at, reason
from . import safetensors
from .container import ZipContainer
from .located import LocatedTensor
from .regular import read_small
from .shown import shown
from .unpickle import unpickle

if TYPE_CHECKING:
    from collections.abc import Mapping

PICKLE_NAME = "pytorch_model.bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Located tensors by name, and the files they are in (names inside the directory)."""

    directory: str
    files: tuple[str, ...]
    tensors: Mapping[str, LocatedTensor]
    index: str | None
    """Name of the index, None for a single file."""


def read_weights(directory: str) -> Weights:
    """The weights in `directory`: safetensors if there are any, else `pytorch_model.bin` and its shards.

    Raises NotACheckpoint if there are neither, DamagedFile or UnsafePickle for what cannot be read.
    """
    with at(directory):
        try:
            entries = os.listdir(directory)
        except OSError as error:
            raise NotACheckpoint(f"the model's directory cannot be read: {reason(error)}") from None
    if any(entry.endswith((".safetensors", safetensors.INDEX_SUFFIX)) for entry in entries):
        model = safetensors.read_model(directory)
        return Weights(directory=directory, files=tuple(model.files), tensors=model.tensors, index=model.index)
    with at(directory):
        index = f"{PICKLE_NAME}.index.json" if f"{PICKLE_NAME}.index.json" in entries else None
        names = _shards(os.path.join(directory, index)) if index else [PICKLE_NAME]
        if not index and PICKLE_NAME not in entries:
            raise NotACheckpoint(
                "there are no weights in the directory", expected="safetensors files or pytorch_model.bin"
            )
        tensors: dict[str, LocatedTensor] = {}
        for name in names:
            tensors |= read_pickled(directory, name)
    return Weights(directory=directory, files=tuple(names), tensors=tensors, index=index)


def _shards(path: str) -> list[str]:
    with at(os.path.basename(path)):
        weight_map = safetensors.parse_object(read_small(path, safetensors.MAX_HEADER_BYTES), "the index").get(
            "weight_map"
        )
        if not isinstance(weight_map, dict):
            raise DamagedFile("the index has no usable 'weight_map'", expected="a mapping of names to files")
        names = sorted({name if isinstance(name, str) else "" for name in weight_map.values()})
        for name in names:
            if os.path.basename(name) != name or name in ("", ".", "..") or not name.isprintable():
                raise DamagedFile("the index names a file outside of its folder", found=shown(name))
        return names


def read_pickled(directory: str, name: str) -> dict[str, LocatedTensor]:
    """The tensors of the state dict in `directory`/`name`. Raises DamagedFile or UnsafePickle."""
    with at(name):
        try:
            with ZipContainer(os.path.join(directory, name)) as container:
                content = unpickle(container.read_pickle(), container)
        except OSError as error:
            if isinstance(error, NotACheckpoint):
                raise
            raise DamagedFile(f"the file cannot be read: {reason(error)}") from None
        if not isinstance(content, dict):
            raise DamagedFile("the file holds no state dict", found=type(content).__name__)
        return {str(key): value for key, value in content.items() if isinstance(value, LocatedTensor)}
