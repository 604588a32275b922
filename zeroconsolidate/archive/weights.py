"""A model directory, whatever tool wrote it -> located tensors by name."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import DamagedFile, NotACheckpoint, at
from . import safetensors
from .container import ZipContainer
from .located import LocatedTensor
from .model_files import PICKLE_INDEX_NAME, PICKLE_NAME
from .regular import read_errors
from .unpickle import unpickle

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


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
        entries = safetensors.entries_of(directory)
    if any(entry.endswith((".safetensors", safetensors.INDEX_SUFFIX)) for entry in entries):
        model = safetensors.read_model(directory)
        return Weights(directory=directory, files=tuple(model.files), tensors=model.tensors, index=model.index)
    with at(directory):
        index = PICKLE_INDEX_NAME if PICKLE_INDEX_NAME in entries else None
        names = [PICKLE_NAME]
        if index:
            names = sorted(set(safetensors.read_weight_map(os.path.join(directory, index)).values()))
        elif PICKLE_NAME not in entries:
            raise NotACheckpoint(
                "there are no weights in the directory", expected="safetensors files or pytorch_model.bin"
            )
        tensors: dict[str, LocatedTensor] = {}
        for name in names:
            tensors |= read_pickled(directory, name)
    return Weights(directory=directory, files=tuple(names), tensors=tensors, index=index)


def read_folders(directory: str, folders: Sequence[str]) -> Weights:
    """The weights in folders of `directory`, `` for the directory itself; names begin with their folder's.

    Raises what `read_weights` raises.
    """
    found = {folder: read_weights(os.path.join(directory, folder)) for folder in dict.fromkeys(folders)}
    return Weights(
        directory=directory,
        files=tuple(os.path.join(folder, file) for folder, one in found.items() for file in one.files),
        tensors={
            os.path.join(folder, name): tensor for folder, one in found.items() for name, tensor in one.tensors.items()
        },
        index=next((one.index for one in found.values() if one.index is not None), None),
    )


def read_pickled(directory: str, name: str) -> dict[str, LocatedTensor]:
    """The tensors of the state dict in `directory`/`name`. Raises DamagedFile or UnsafePickle."""
    with at(name):
        with read_errors(), ZipContainer(os.path.join(directory, name)) as container:
            content = unpickle(container.read_pickle(), container)
        if not isinstance(content, dict):
            raise DamagedFile("the file holds no state dict", found=type(content).__name__)
        return {str(key): value for key, value in content.items() if isinstance(value, LocatedTensor)}
