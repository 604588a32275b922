"""What is known of an output before a byte of its weights is made: the files beside them, and what decides bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._version import __version__
from ..archive.model_files import RESCUE_REPORT_NAME
from ..options.mapped import EVERYTHING_HERE
from ..write.fingerprint import fingerprint
from .gate.examine import pass_or_refuse
from .preview import preview

if TYPE_CHECKING:
    from ..opening.opened import Opened
    from ..options import Writing
    from ..run.inputs import Inputs
    from ..write.journal import Fingerprint
    from .output import Output, SideFiles


def refuse_what_would_not_load(folder: str, output: Output, side_files: SideFiles, opened: Opened) -> None:
    """Hold the headers and the files beside them against the loader, before a byte of weights is written. Raises what
    `pass_or_refuse` raises."""
    if not output.has_preview:
        return
    with preview(folder, output.plan.files, side_files) as directory:
        if directory is not None:
            pass_or_refuse(output.examined(directory), output.excuses(opened))


def prepared(
    output: Output, opened: Opened, options: Writing, inputs: Inputs, *, parts: int | None = None
) -> tuple[SideFiles, Fingerprint]:
    """What lies beside the weights, and all that decides a byte of the output. `parts`: how many commands make one
    each."""
    side_files = output.side_files(inputs)
    if opened.report is not None:
        side_files.made[RESCUE_REPORT_NAME] = opened.report.to_json()
    places = EVERYTHING_HERE if parts is None else options.places
    sources = [*opened.files, *side_files.copies.values(), *output.read_files, *opened.filled_from]
    traits = fingerprint(
        version=__version__,
        options=options.plain(places.called),
        sources=sources,
        layout=output.plan.all_files,
        sharing=output.plan.sharing,
        parts=parts,
        places=places,
        known=opened.looks,
    )
    return side_files, traits
