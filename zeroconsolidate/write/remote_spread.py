"""Uploads that several processes send parts of: begun once, continued by any of them, and complete before they end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import BadOption, OutputFailed
from ..integrations.object_uploads import uploads_to
from .portion import start_over
from .refusals import STAGING
from .uploads import numbers_of, part_bytes_of

if TYPE_CHECKING:
    from ..integrations.object_uploads import UploadedPart, Uploads
    from .remote_journal import RemoteJournal


def shared_uploads(output: str) -> Uploads:
    """What several machines send one file with. Raises BadOption for a store to which only one can."""
    uploads = uploads_to(output)
    if not uploads.is_shared:
        raise BadOption(
            "several machines can write an output to a disk that all see, to s3:// or to az://; to other stores "
            "one machine sends a file from its beginning to its end",
            found=output,
            remedy="leave out --part, --finish and --executor",
        )
    return uploads


def uploaded(uploads: Uploads, output: str, name: str, upload: str) -> dict[int, UploadedPart]:
    """The parts of an upload that the store has. Raises OutputFailed if there is no such upload any more."""
    url = f"{output}/{name}"
    there = uploads.parts(url, upload)
    if there is None:
        raise OutputFailed(
            "the store has removed the unfinished upload", remedy=start_over(f"{output}/{STAGING}"), address=(url,)
        )
    return there


def refuse_incomplete(uploads: Uploads, output: str, name: str, upload: str, size_bytes: int) -> None:
    """The store must have every part of a file, each of its size. Raises OutputFailed."""
    there = uploaded(uploads, output, name, upload)
    part_bytes = part_bytes_of(size_bytes)
    sizes = {
        number: min(part_bytes, size_bytes - (number - 1) * part_bytes)
        for number in numbers_of(0, size_bytes, size_bytes)
    }
    if {number: part.size_bytes for number, part in there.items()} != sizes:
        wrong = sorted(n for n in {*there, *sizes} if n not in there or there[n].size_bytes != sizes.get(n))
        raise OutputFailed(
            f"the store has not the parts of the upload that were sent: {len(wrong)} of {len(sizes)} are missing or "
            f"have another size, the first of them part {wrong[0]}",
            remedy=start_over(f"{output}/{STAGING}"),
            address=(f"{output}/{name}",),
        )


def upload_of(journal: RemoteJournal, uploads: Uploads, output: str, name: str) -> str:
    """What the upload of a file is known by; it is begun if it was not."""
    known = journal.progress.uploads.get(name)
    return known if known is not None else _begin(journal, uploads, output, name)


def made_before(
    journal: RemoteJournal, uploads: Uploads, output: str, name: str, size_bytes: int
) -> dict[tuple[int, int], dict[str, Any]]:
    """What earlier runs have sent of a file: (start, stop) -> facts. Its upload is begun if there is none."""
    progress = journal.progress
    upload = progress.uploads.get(name)
    there = uploads.parts(f"{output}/{name}", upload) if upload is not None else None
    if there is None:  # never begun, or removed: by a rule of the bucket, for example
        if any(name in known for known in (progress.stretches, progress.upto, progress.done)):
            journal.append({"file": name, "afresh": True})
        _begin(journal, uploads, output, name)
        return {}
    known = dict(progress.stretches.get(name, {}))
    if progress.upto.get(name):
        known[0, progress.upto[name]] = progress.facts[name]
    return {
        (start, stop): facts
        for (start, stop), facts in known.items()
        if all(number in there for number in numbers_of(start, stop, size_bytes))
    }


def _begin(journal: RemoteJournal, uploads: Uploads, output: str, name: str) -> str:
    upload = uploads.begin(f"{output}/{name}", 0)
    journal.append({"upload": upload, "file": name})
    return upload
