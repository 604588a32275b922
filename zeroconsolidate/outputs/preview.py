"""A planned output -> a directory with its headers and side files, for the last check.

What a loader would refuse is then refused before hours of copying.
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..archive.places import size_bytes
from ..archive.regular import read_small
from ..options.urls import is_url
from ..write.system import write_all

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..plan.layout import FilePlan
    from .output import SideFiles

MAX_COPY_BYTES = 1 << 26
"""Larger side files are left out here, and checked when they are staged."""


@contextmanager
def preview(folder: str, files: Sequence[FilePlan], side_files: SideFiles) -> Iterator[str | None]:
    """A directory in `folder` with the headers of the weights, in files that are as long as they will be and take no
    room on the disk, and with the side files. It is removed at the end.

    None if it cannot be written: writing the output itself then says what is wrong.
    """
    directory = os.path.join(folder, "preview")
    shutil.rmtree(directory, ignore_errors=True)
    try:
        yield directory if _is_written(directory, files, side_files) else None
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _is_written(directory: str, files: Sequence[FilePlan], side_files: SideFiles) -> bool:
    try:
        for plan in files:
            with _opened(directory, plan.name) as fd:
                write_all(fd, plan.header)
                os.ftruncate(fd, plan.size_bytes)
        for name, data in side_files.made.items():
            with _opened(directory, name) as fd:
                write_all(fd, data)
        for name, path in side_files.copies.items():
            if is_url(path):
                if size_bytes(path) <= MAX_COPY_BYTES:
                    with _opened(directory, name) as fd:
                        write_all(fd, read_small(path, MAX_COPY_BYTES))
            elif os.path.getsize(path) <= MAX_COPY_BYTES:
                os.makedirs(os.path.dirname(os.path.join(directory, name)), exist_ok=True)
                shutil.copyfile(path, os.path.join(directory, name))
    except OSError:
        return False
    return True


@contextmanager
def _opened(directory: str, name: str) -> Iterator[int]:
    path = os.path.join(directory, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)
