"""A save -> what the metadata in its files says. No value is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..archive.gather import gather
from ..archive.load import Counted, LoadReadable
from ..archive.names import FileKind
from ..errors import StoreFailed, ZeroConsolidateError
from ..opening.incomplete import read_incomplete
from .facts import Examined

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..archive.raw import CheckpointFiles, RawFile
    from ..opening.incomplete import Incomplete
    from .facts import Listing

_MODEL_KINDS = (FileKind.MODEL, FileKind.PARTITIONED_MODEL)
_LIGHTNING = "pytorch-lightning_version"


def examine(listing: Listing, *, files_read: Callable[[int, int], None] | None = None) -> Examined:
    """Read the metadata of all files of a save. `files_read(n, total)` is called as they are read."""
    loading = _Noting()
    try:
        counted = Counted(loading, files_read)
        left = read_incomplete(gather(listing.paths, listing.tag), counted, loading.readable.reasons)
    except StoreFailed:
        raise
    except ZeroConsolidateError as error:
        files = {name: loading.readable.reasons.get(name, "missing") for name in error.files}
        return _examined(loading, missing=files or loading.readable.reasons, problem=error.sentence)
    return _of(left, loading)


def examined_with(left: Incomplete, listing: Listing) -> Examined:
    """The same of a save that has been read: only the first of its model files is read again."""
    loading = _Noting()
    files = gather(listing.paths, listing.tag)
    for kind in _MODEL_KINDS:
        if not loading.said:
            next(iter(loading(files, kind)), None)
    return _of(left, loading)


class _Noting:
    """Loads what can be read, and notes what the first model file says of the training."""

    def __init__(self) -> None:
        self.readable = LoadReadable()
        self.said: Mapping[str, Any] = {}

    def __call__(self, files: CheckpointFiles, kind: FileKind) -> Iterator[RawFile]:
        for raw in self.readable(files, kind):
            if kind in _MODEL_KINDS and not self.said:
                kept = ("lr_scheduler", "callbacks", _LIGHTNING, "global_steps")
                self.said = {key: raw.content.get(key) for key in kept}
            yield raw


def _of(left: Incomplete, loading: _Noting) -> Examined:
    origin = left.catalog.origin
    ranks = origin.world_size * origin.degrees.tp * origin.degrees.pp
    return _examined(loading, missing=left.reasons, step=origin.step, ranks=ranks)


def _examined(
    loading: _Noting,
    *,
    missing: Mapping[str, str],
    problem: str | None = None,
    step: int | None = None,
    ranks: int | None = None,
) -> Examined:
    stated = loading.said.get("global_steps")
    return Examined(
        missing=dict(missing),
        problem=problem,
        step=step if step is not None else stated if isinstance(stated, int) else None,
        ranks=ranks,
        has_scheduler=loading.said.get("lr_scheduler") is not None,
        is_lightning=loading.said.get(_LIGHTNING) is not None,
        best=_best(loading.said.get("callbacks")),
    )


def _best(callbacks: object) -> str | None:
    """The path that Lightning's `ModelCheckpoint` takes for the best one."""
    for state in callbacks.values() if isinstance(callbacks, Mapping) else ():
        path = state.get("best_model_path") if isinstance(state, Mapping) else None
        if isinstance(path, str) and path:
            return path
    return None
