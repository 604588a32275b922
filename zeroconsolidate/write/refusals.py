"""An output path -> an error if it must not be written to, before anything is read. A dry run does the same.

:class:`.stage.Stage` asks some of it again under its lock, when it counts.
"""

from __future__ import annotations

import errno
import os
import re
from typing import TYPE_CHECKING

from ..archive.phrases import listed
from ..archive.places import is_directory
from ..archive.regular import is_within
from ..errors import BadOption, OutputExists, OutputFailed, at
from ..options import size_text
from ..options.urls import real
from .file_names import refuse_names
from .journal import read_progress, refuse_other
from .system import system_errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from .journal import Fingerprint

STAGING = ".zeroconsolidate"
"""Name of the staging folder in an output."""
JOURNAL = "journal"
"""Name of the journal in it: where there is one, there is something to finish."""
PARTS = "parts"
"""Name of the folder in it with a journal of each part, of a conversion in parts."""
TASKS = "tasks"
"""Name of the folder in it with what workers need to know."""
_NOTED_BYTES = 2 << 10
"""What the journal and the manifest say of a file, with digests, takes less."""


def refuse_inside(output: str, *, checkpoint: str) -> None:
    """The output must not be in the checkpoint: we never modify what we read. Raises BadOption."""
    here, inside = real(output), real(checkpoint)
    if is_within(here, inside):
        raise BadOption(
            f"the output {output} lies in the checkpoint {checkpoint}, which is never modified",
            remedy="name another directory",
        )


def refuse_read(output: str, *, models: Iterable[str]) -> None:
    """The output must be none of the models that are read for it: it would replace what it is made of. Raises
    BadOption."""
    same = next((model for model in models if real(model) == real(output) and is_directory(model)), None)
    if same is not None:
        raise BadOption(
            f"the output {output} is the model {same}, which is read to make it", remedy="name another directory"
        )


def refuse_taken(output: str, *, overwrite: bool) -> None:
    """The output must be a directory that is new or empty. Raises OutputExists.

    A conversion that is staged in it may be continued; only :class:`.stage.Stage` can tell which one.
    """
    with at(output), system_errors(output):
        refuse_file(output)
        if not os.path.isdir(os.path.join(output, STAGING)):
            refuse_existing(output, overwrite=overwrite)


def refuse_file(output: str) -> None:
    """Refuse an output that is a file. Raises OutputExists."""
    if os.path.lexists(output) and not os.path.isdir(output):
        raise OutputExists("the output is a file", expected="a directory or nothing")


def refuse_existing(output: str, *, overwrite: bool, ours: Sequence[str] = ()) -> None:
    """The output must hold nothing but what is staged and files that are `ours`. Raises OutputExists."""
    if overwrite or not os.path.isdir(output):
        return
    known = {STAGING, *(name.partition("/")[0] for name in ours)}
    there = sorted(name for name in os.listdir(output) if name not in known)
    if there:
        raise OutputExists(
            f"the output directory is not empty ({listed(there, 3)})", remedy="replace its model with --overwrite"
        )


def refuse_staged(output: str, fingerprint: Fingerprint, *, overwrite: bool, restart: bool) -> None:
    """Staged files must be of the same conversion. Raises BadOption, and OutputExists as Stage would."""
    folder = os.path.join(output, STAGING)
    with at(output), system_errors(output):
        if not os.path.isfile(os.path.join(folder, JOURNAL)):
            refuse_existing(output, overwrite=overwrite)
            return
        progress = read_progress(os.path.join(folder, JOURNAL))
        ours = () if restart else (progress.publish or {}).get("publish", ())
        if progress.fingerprint is not None and not restart:
            refuse_other(progress.fingerprint, fingerprint, folder)
        refuse_existing(output, overwrite=overwrite, ours=ours)


def begun(output: str) -> Fingerprint | None:
    """What is being converted into `output` by a run that was interrupted, None if there is none. Raises
    OutputFailed."""
    journal = os.path.join(output, STAGING, JOURNAL)
    with system_errors(output):
        return read_progress(journal).fingerprint if os.path.isfile(journal) else None


def refuse_unwritable(output: str, sizes: Mapping[str, int], *, cloned_bytes: int = 0) -> None:
    """The output, or the folder it is to be made in, must be writable and have room. Raises OutputFailed."""
    with system_errors(output):
        here = nearest(output)
        if os.statvfs(here).f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        if not os.access(here, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        refuse_names(here, os.path.join(output, STAGING), sizes, output=output)
        refuse_full(here, os.path.join(output, STAGING), sizes, cloned_bytes=cloned_bytes, output=output)


def refuse_full(folder: str, staging: str, sizes: Mapping[str, int], *, cloned_bytes: int = 0, output: str) -> None:
    """The disk of `folder` must have room for files of these sizes, what is in `staging` already counted in.
    `cloned_bytes`: how much of them takes none, less what is staged of that. Raises
    OutputFailed, and the system's errors.

    A file takes whole blocks of the disk, and a folder one, twice while files move from the staging folder to their
    final names. In a checkpoint of some thousand small files that is more than the bytes in them.
    """
    disk = os.statvfs(folder)
    folders = {name[: match.start()] for name in sizes for match in re.finditer("/", name)}
    blocks = sum(-(-size // disk.f_frsize) for size in sizes.values()) + 2 * len(folders)
    size_bytes = blocks * disk.f_frsize + len(sizes) * _NOTED_BYTES - cloned_bytes
    staged = [os.lstat(path) for path in _entries(staging)]
    free = disk.f_bavail * disk.f_frsize + sum(status.st_blocks * 512 for status in staged)
    if free < size_bytes:
        raise OutputFailed(
            "the disk has too little room",
            expected=f"{size_text(size_bytes)} free",
            found=size_text(free),
            address=(output,),
        )
    entries = len(sizes) + 2 * len(folders)
    # A file system that makes inodes when they are needed says that it has none at all.
    if disk.f_files and disk.f_favail + len(staged) < entries:
        raise OutputFailed(
            "the disk has room for too few files",
            expected=f"{entries:,} free inodes",
            found=f"{disk.f_favail + len(staged):,}",
            address=(output,),
        )


def _entries(folder: str) -> Iterator[str]:
    """Paths of the files and folders in a folder, however deep."""
    for inside, folders, files in os.walk(folder):
        yield from (os.path.join(inside, name) for name in (*folders, *files))


def nearest(path: str) -> str:
    """The path, or the folder above it that is there. Raises NotADirectoryError for a file on the way."""
    here = path
    while True:
        try:
            entries = os.scandir(here or ".")
        except FileNotFoundError:
            here = os.path.dirname(here)
            continue
        except PermissionError:  # it may be written to all the same
            return here or "."
        entries.close()
        return here or "."
