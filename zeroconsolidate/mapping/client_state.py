"""The model file of the first rank -> what the training program saved in it besides the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..archive.load import load_file
from ..archive.names import FileKind, file_name, parse
from ..catalog.keys import MODEL_KEYS
from ..catalog.nested import rebuilt
from ..plan.pieces import View
from ..plan.sources import Source
from .views import TensorView

if TYPE_CHECKING:
    from ..archive.located import LocatedTensor
    from ..archive.raw import RawFile
    from ..catalog.facts import Catalog
    from ..run.storage import Readable


def first_model_file(catalog: Catalog) -> RawFile | None:
    """The first rank's model file, read; None for a checkpoint without one. Raises what `load_file` raises."""
    found = []
    for path in catalog.files:
        parsed = parse(file_name(path))
        if parsed is not None and parsed[0] in (FileKind.MODEL, FileKind.PARTITIONED_MODEL):
            found.append((parsed[1], parsed[0], path))
    if not found:
        return None
    name, kind, path = min(found, key=lambda each: each[0])
    return load_file(path, kind, name)


def client_state(catalog: Catalog, files: Readable) -> dict[str, Any]:
    """What was given as `client_state`: all that DeepSpeed does not write itself, with a view in place of each tensor.

    An object of some class, a container inside of itself and what is nested too deeply stay as they were read.
    """

    def view(tensor: LocatedTensor, name: str) -> TensorView:
        return TensorView(name, Source(name=name, shape=tensor.shape, recipe=View(tensor), role="client state"), files)

    raw = first_model_file(catalog)
    content = {} if raw is None else raw.content
    return {
        key: rebuilt(value, view, place=str(key), other=lambda value: value)
        for key, value in content.items()
        if key not in MODEL_KEYS
    }
