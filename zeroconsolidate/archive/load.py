"""Opens the files of a tag, one at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import DamagedFile, NotACheckpoint, at
from .container import ZipContainer
from .raw import CheckpointFiles, RawFile
from .unpickle import unpickle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .names import FileKind, FileName


def load(files: CheckpointFiles, kind: FileKind) -> Iterator[RawFile]:
    """The files of one kind in the order of their ranks, read as they are asked for.

    Only pickles and zip directories are read, never tensors. Raises DamagedFile or UnsafePickle, with the file.
    """
    for name in files.of(kind):
        yield load_file(files.path(name), kind, name)


def load_file(path: str, kind: FileKind, name: FileName) -> RawFile:
    """One file. Raises DamagedFile, UnsafePickle, NotACheckpoint (if it may not be read)."""
    with at(name.name):
        try:
            with ZipContainer(path) as container:
                content = unpickle(container.read_pickle(), container)
                form = container.form
        except PermissionError:
            raise NotACheckpoint("the file cannot be read: permission denied") from None
        except FileNotFoundError:
            raise NotACheckpoint("the file has gone while it was being read") from None
        except OSError as error:
            raise DamagedFile(f"the file cannot be read: {error.strerror or error}") from None
        if not isinstance(content, dict):
            raise DamagedFile(f"the file holds no checkpoint; expected a dict, got {type(content).__name__}")
    return RawFile(kind=kind, name=name, path=path, content=content, container=form)
