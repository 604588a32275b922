"""The staging of an output, by where it is: a folder in it, or in a store uploads and objects that no loader sees."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any, TypeAlias

from ..errors import OutputExists
from ..options.urls import is_url
from ..plan.stretches import pages
from . import portion, refusals
from .lock import Lock
from .portion import Portion
from .refusals import JOURNAL, STAGING, refuse_taken
from .stage import Stage
from .system import remove, system_errors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..plan.layout import FilePlan
    from ..plan.stretches import Grid, Part, Stretch
    from .journal import Fingerprint
    from .remote_portion import RemotePortion
    from .remote_stage import RemoteStage

Staging: TypeAlias = "Stage | RemoteStage"


def staging(
    output: str, *, overwrite: bool, restart: bool, fingerprint: Fingerprint, files: Sequence[FilePlan], read_back: bool
) -> Staging:
    """What an output is made in. `files`: its weights. `read_back`: what is written is read again while it is made."""
    if is_url(output):
        from .remote_stage import RemoteStage

        return RemoteStage(
            output, overwrite=overwrite, restart=restart, fingerprint=fingerprint, files=files, read_back=read_back
        )
    return Stage(output, overwrite=overwrite, restart=restart, fingerprint=fingerprint)


def portion_of(
    output: str, part: Part, *, sizes: Mapping[str, int], overwrite: bool, fingerprint: Fingerprint
) -> Portion | RemotePortion:
    """What one part of an output is made in. `sizes`: of the files of weights."""
    if is_url(output):
        from .remote_portion import RemotePortion

        return RemotePortion(output, part, sizes=sizes, overwrite=overwrite, fingerprint=fingerprint)
    return Portion(output, part, sizes=sizes, overwrite=overwrite, fingerprint=fingerprint)


def grid_of(output: str) -> Grid:
    """Where the files of an output may be cut, for several processes to make them."""
    if is_url(output):
        from .uploads import part_bytes_of

        return part_bytes_of
    return pages


def gathered(
    output: str, token: str | None, shares: Mapping[Part, Sequence[Stretch]], sizes: Mapping[str, int]
) -> dict[str, list[dict[str, Any]]]:
    """What the parts of an output remember of each file. Raises BadOption if a part is not finished."""
    if is_url(output):
        from . import remote_portion

        return remote_portion.gathered(output, token, shares, sizes)
    return portion.gathered(os.path.join(output, STAGING), token, shares, sizes)


def begun(output: str) -> Fingerprint | None:
    """What is being converted into an output by a run that was interrupted, None if there is none."""
    if is_url(output):
        from .journal import progress_of
        from .remote_journal import read_journal

        return progress_of(read_journal(f"{output}/{STAGING}/{JOURNAL}")).fingerprint
    return refusals.begun(output)


def refuse_one_machine(output: str) -> None:
    """Several processes must be able to write the files of an output. Raises BadOption for a store where only one
    can."""
    if is_url(output):
        from .remote_spread import shared_uploads

        shared_uploads(output)


def refuse_taken_output(output: str, *, overwrite: bool) -> None:
    """The output must be new or empty, wherever it is, or have an interrupted conversion in it. Raises OutputExists."""
    if not is_url(output):
        refuse_taken(output, overwrite=overwrite)
        return
    from ..archive.places import exists, is_file
    from .remote_publish import refuse_existing

    if is_file(output):
        raise OutputExists("the output is a file", expected="a folder or nothing", address=(output,))
    if not exists(f"{output}/{STAGING}/{JOURNAL}"):
        refuse_existing(output, overwrite=overwrite)


def refuse_staged_remotely(output: str, fingerprint: Fingerprint, *, overwrite: bool, restart: bool) -> None:
    """Staged work in a store must be of the same conversion. Raises BadOption, and OutputExists."""
    from .journal import progress_of, refuse_other
    from .remote_journal import read_journal
    from .remote_publish import refuse_existing

    progress = progress_of(read_journal(f"{output}/{STAGING}/{JOURNAL}"))
    if progress.fingerprint is not None and not restart:
        refuse_other(progress.fingerprint, fingerprint, f"{output}/{STAGING}")
    refuse_existing(output, overwrite=overwrite, ours=() if restart else (progress.publish or {}).get("publish", ()))


def abort(output: str) -> int:
    """Remove what interrupted conversions have left in an output; nothing that has a final name is touched.

    Returns how many files and uploads were removed. Raises OutputBusy if one is under way, OutputFailed, StoreFailed.
    """
    if is_url(output):
        from ..integrations.object_uploads import uploads_to
        from .remote_publish import abandon

        return len(abandon(output, uploads_to(output)))
    folder = os.path.join(output, STAGING)
    with system_errors(output):
        if not os.path.isdir(folder):
            return 0
        lock = Lock(os.path.join(folder, "lock"))
        try:
            found = sum(len(files) for _, _, files in os.walk(os.path.join(folder, "files")))
            remove(os.path.join(folder, JOURNAL))
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            lock.release()
    return found
