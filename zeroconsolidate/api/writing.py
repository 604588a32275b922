"""What all functions that write do first and last."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from ..opening.open import find
from ..options import roots_of
from ..options.urls import normal, refuse_urls
from ..outputs.logged import log
from ..outputs.make import make
from ..outputs.report import Report, report_of
from ..run.digest import maker
from ..write.refusals import refuse_inside, refuse_taken

if TYPE_CHECKING:
    from ..archive.raw import CheckpointFiles
    from ..opening.opened import Opened
    from ..options import Path, Roots, Writing
    from ..outputs.output import Output


def directory_for(out: Path) -> str:
    """The directory to write. Raises BadOption for a URL."""
    directory = normal(os.fspath(out))
    refuse_urls([directory], "the output", "write it here, and copy it with the client of the store")
    return directory


def found(src: Roots, directory: str, options: Writing) -> CheckpointFiles:
    """The files of the checkpoint, if an output of it may be written into `directory`."""
    options.doing("reading metadata")
    files = find(src, options.tag)
    for place in {files.root, files.directory, *roots_of(src)}:
        refuse_inside(directory, checkpoint=place)
    refuse_taken(directory, overwrite=options.overwrite)
    if options.digest is not None:
        maker(options.digest)
    return files


def made(output: Output, opened: Opened, options: Writing, directory: str, began: float) -> Report:
    """Write a planned output. `began`: when, by the monotonic clock, the call did."""
    made = make(output, opened, options, directory)
    seconds = time.monotonic() - began
    report = report_of(output, opened, made, directory=directory, seconds=seconds, check=options.check)
    log(report)
    return report
