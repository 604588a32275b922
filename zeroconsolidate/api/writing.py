"""What all functions that write do first and last."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from ..opening.open import find
from ..options import roots_of
from ..options.urls import normal
from ..outputs.logged import log
from ..outputs.make import make
from ..outputs.parts import PartReport, make_part
from ..outputs.report import Report, report_of
from ..run.digest import maker
from ..write.refusals import refuse_inside
from ..write.staging import refuse_taken_output

if TYPE_CHECKING:
    from ..archive.raw import CheckpointFiles
    from ..opening.opened import Opened
    from ..options import Path, Roots, Writing
    from ..outputs.output import Output
    from ..plan.stretches import Part


def directory_for(out: Path) -> str:
    """The directory to write, or its URL."""
    return normal(os.fspath(out))


def found(src: Roots, directory: str, options: Writing) -> CheckpointFiles:
    """The files of the checkpoint, if an output of it may be written into `directory`."""
    options.doing("reading metadata")
    files = find(src, options.tag)
    for place in {files.root, files.directory, *roots_of(src)}:
        refuse_inside(directory, checkpoint=place)
    refuse_taken_output(directory, overwrite=options.overwrite)
    if options.digest is not None:
        maker(options.digest)
    return files


def made(
    output: Output, opened: Opened, options: Writing, directory: str, began: float, *, finishing: bool = False
) -> Report:
    """Write a planned output, or finish what parts have made of it. `began`: when, by the monotonic clock, the call
    did."""
    made = make(output, opened, options, directory, finishing=finishing)
    seconds = time.monotonic() - began
    report = report_of(output, opened, made, directory=directory, seconds=seconds, check=options.check)
    log(report)
    return report


def made_part(output: Output, opened: Opened, options: Writing, directory: str, part: Part, began: float) -> PartReport:
    """Write a part of a planned output."""
    made = make_part(output, opened, options, directory, part)
    return PartReport(
        output=directory,
        part=part.number,
        parts=part.count,
        files={stretch.file: (stretch.start, stretch.stop) for stretch in made.share},
        bytes_written=sum(stretch.nbytes for stretch in made.share),
        total_bytes=sum(file.size_bytes for file in output.plan.all_files),
        resumed_bytes=made.resumed_bytes,
        seconds=time.monotonic() - began,
        missing=output.missing,
        warnings=made.warnings,
    )
