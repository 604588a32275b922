"""What is planned -> removed from the disk, in an order in which no part of a save passes for a whole one."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from ..archive.discover import LATEST
from ..archive.regular import scan
from ..write.system import remove, sync_directory, system_errors

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .facts import Listing

REMOVING = ".zeroconsolidate-removing-"
"""How the name of a folder begins that is being removed. Nothing takes it for a save."""


def remove_optimizer(listing: Listing, files: Iterable[str]) -> None:
    """Remove optimizer files of a save. Raises OutputFailed.

    Without `latest`, DeepSpeed and the Trainer refuse to resume from it; without the file of its first rank, it is
    incomplete to every reader. So these go first, and are gone on disk before the others are.
    """
    names = list(files)
    for path in listing.paths:
        folder = os.path.join(path, listing.tag) if listing.tag is not None else path
        with system_errors(folder):
            if not listing.is_tag and listing.tag is not None:
                for latest in LATEST:
                    remove(os.path.join(path, latest))
                sync_directory(path)
            for number, name in enumerate(names):
                remove(os.path.join(folder, name))
                if number == 0:
                    sync_directory(folder)


def remove_whole(listing: Listing) -> None:
    """Remove a save: it loses its name at once, and then its files. Raises OutputFailed."""
    for path in listing.paths:
        folder = os.path.join(path, listing.name) if listing.is_tag else path
        hide_and_remove(folder)


def hide_and_remove(folder: str) -> None:
    """Remove a folder that is a whole as long as it has its name. Raises OutputFailed."""
    parent, name = os.path.split(os.path.abspath(folder))
    hidden = os.path.join(parent, REMOVING + name)
    with system_errors(folder):
        shutil.rmtree(hidden, ignore_errors=True)  # of an earlier removal that was cut off
        try:
            os.rename(folder, hidden)
        except FileNotFoundError:
            return  # someone else has removed it
        sync_directory(parent)
        shutil.rmtree(hidden, ignore_errors=True)


def finish_removals(directory: str) -> None:
    """Remove what removals that were cut off have left in a directory. Raises OutputFailed."""
    with system_errors(directory):
        for entry in scan(directory):
            if entry.name.startswith(REMOVING) and entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
