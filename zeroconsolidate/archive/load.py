"""The files of a tag -> their contents, one file at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import DamagedFile, NotACheckpoint, UnsafePath, UnsafePickle, at
from ..options.urls import is_url
from .legacy import open_container
from .located import LocatedTensor
from .names import FileKind
from .raw import MAX_REMEMBERED, CheckpointFiles, RawFile
from .regular import opened, read_errors
from .unpickle import unpickle_placeless

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .names import FileName
    from .regular import Positioned


def load(files: CheckpointFiles, kind: FileKind) -> Iterator[RawFile]:
    """The files of one kind in the order of their ranks, read as they are asked for.

    Only pickles and zip directories are read, never tensors. Raises DamagedFile or UnsafePickle, with the file.
    """
    remembered: dict[bytes, object] = {}
    for name, opening in _opening(files, kind):
        yield load_file(files.path(name), kind, name, remembered, opening)


def _opening(files: CheckpointFiles, kind: FileKind) -> Iterator[tuple[FileName, Callable[[], Positioned] | None]]:
    """The files of one kind. With those in a store comes what gives the open file: they are opened side by side."""
    names = files.of(kind)
    if not any(is_url(files.path(name)) for name in names):
        yield from ((name, None) for name in names)
        return
    from .remote import ahead

    yield from zip(names, ahead(lambda name: opened(files.path(name)), names), strict=True)


class Counted:
    """`load`, or another function like it, which reports each file: `report(n, total)`, n of them are read.

    A file that is read again is not counted again. Of some checkpoints not all files are read.
    """

    def __init__(
        self, load: Callable[[CheckpointFiles, FileKind], Iterator[RawFile]], report: Callable[[int, int], None] | None
    ) -> None:
        self._load, self._report = load, report
        self._names: set[str] = set()
        self._total = 0

    def __call__(self, files: CheckpointFiles, kind: FileKind) -> Iterator[RawFile]:
        """The files of one kind in the order of their ranks."""
        # It is called with fewer files later on, where the first have told that the others are copies of them.
        self._total = max(self._total, sum(map(len, files.files.values())))
        for raw in self._load(files, kind):
            self._names.add(raw.name.name)
            if self._report is not None:
                self._report(len(self._names), self._total)
            yield raw


class LoadReadable:
    """`load`, but files that cannot be read are left out and remembered: `reasons` has what is wrong, by name.

    A file that may be an attack is an error nevertheless.
    """

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def __call__(self, files: CheckpointFiles, kind: FileKind) -> Iterator[RawFile]:
        """The readable files of one kind in the order of their ranks."""
        remembered: dict[bytes, object] = {}
        for name, opening in _opening(files, kind):
            try:
                yield load_file(files.path(name), kind, name, remembered, opening)
            except (UnsafePickle, UnsafePath):
                raise
            except (DamagedFile, NotACheckpoint) as error:
                self.reasons[name.name] = error.sentence


def load_file(
    path: str,
    kind: FileKind,
    name: FileName,
    remembered: dict[bytes, object] | None = None,
    opening: Callable[[], Positioned] | None = None,
) -> RawFile:
    """One file. Raises DamagedFile, UnsafePickle, UnsafePath, NotACheckpoint (if it may not be read).

    `opening` gives the open file, if it is being opened already.

    `remembered`: contents by pickle. A content with no byte of a tensor in it says nothing about its file, and
    is the same object for all files that have the same pickle.
    """
    with at(name.name), read_errors():
        try:
            with open_container(path, opening() if opening else None) as container:
                form = container.form
                pickled = container.read_pickle()
                content = None if remembered is None else remembered.get(pickled)
                if content is None:
                    content, placeless = unpickle_placeless(pickled, container)
                    if placeless and remembered is not None and len(remembered) < MAX_REMEMBERED:
                        remembered[pickled] = content
        except PermissionError:
            raise NotACheckpoint("the file cannot be read: permission denied") from None
        except FileNotFoundError:
            raise NotACheckpoint("the file disappeared while it was being read") from None
        if kind is FileKind.UNIVERSAL and isinstance(content, LocatedTensor):
            content = {"param": content}  # stage 3 saves the tensor alone, the other stages a dict around it
        if not isinstance(content, dict):
            raise DamagedFile("the file holds no checkpoint", expected="a dict", found=type(content).__name__)
    return RawFile(kind=kind, name=name, path=path, content=content, container=form)
