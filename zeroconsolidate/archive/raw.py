"""What `archive` gives: file names by kind and rank, and plain dicts with located tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .names import FileKind, FileName

MAX_REMEMBERED = 16
"""Pickles that are kept while the files of one kind are read, to recognise equal ones.

At stage 3 the model files of all ranks hold the same empty placeholders; they differ by the device (`cuda:0` to
`cuda:7`) and between the first rank and the rest. Of a thousand files, about ten are decoded.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapFile:
    """What was swapped out to NVMe: `offloaded_tensors/rank<rank>/<first>_<last>.tensor.swp` is a master, and with
    `exp_avg-` in front of that name it is a moment."""

    state: str | None
    """Name of the optimizer's state, None for a master."""
    rank: int
    first: int
    last: int
    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointFiles:
    """The files of one tag, sorted by rank as numbers; the ranks come from the names."""

    root: str
    """The directory that holds the tag (Trainer's `checkpoint-N`), where config and tokenizer are looked for."""
    tag: str
    directory: str
    """`root/tag`."""
    tags: tuple[str, ...]
    """Every tag found in `root`, in natural order."""
    latest: str | None
    """What the file `latest` says; None if there is none."""
    files: dict[FileKind, tuple[FileName, ...]]
    """Files by kind; kinds without files are absent."""
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    """Name -> path of the files that are not in `directory`: a checkpoint may lie on several nodes' own disks."""

    swaps: tuple[SwapFile, ...] = ()
    """Masters outside of the optimizer files."""
    looks: Mapping[str, Mapping[str, int | str]] = field(default_factory=dict)
    """Path -> what the file looked like before any was read: its values must be of the same save as its metadata."""

    def of(self, kind: FileKind) -> tuple[FileName, ...]:
        """The files of one kind, by rank."""
        return self.files.get(kind, ())

    def path(self, file: FileName) -> str:
        """The full path of one of the files."""
        return self.elsewhere.get(file.name) or f"{self.directory}/{file.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RawFile:
    """One file's content: the dict that was saved, a LocatedTensor in place of each tensor."""

    kind: FileKind
    name: FileName
    path: str
    content: dict[str, Any]
    container: str
    """How it was written: `torch zip`, `torch zip (archive/)` by a writer that hands torch an open file,
    `torch legacy` in the container of torch before 1.6."""
