"""The saves of a run -> whether a training can resume, from which of them, and what to type or to pass for it."""

from __future__ import annotations

import shlex
from posixpath import basename, dirname, join
from typing import TYPE_CHECKING

from ..archive.phrases import listed
from ..opening.resume import Resume
from .facts import Writer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .facts import Listing, SaveInfo


def resume_line(writer: Writer, listing: Listing) -> str:
    """What to type or to pass to resume from a save."""
    path = listing.paths[0]
    if listing.is_tag:
        if listing.name != listing.latest:
            return f"echo {shlex.quote(listing.name)} > {shlex.quote(join(path, 'latest'))}"
        return f'engine.load_checkpoint("{path}")'
    if writer is Writer.TRAINER:
        return f"resume_from_checkpoint={path}"
    if writer is Writer.ACCELERATE:
        return f'accelerator.load_state("{path}")'
    if writer is Writer.LIGHTNING:
        return f'trainer.fit(model, ckpt_path="{path}")'
    if listing.tag is None:  # the tag's own folder
        parent = join(path, "..") if basename(path) in (".", "..") else dirname(path) or "."
        return f'engine.load_checkpoint("{parent}", tag="{listing.name}")'
    if listing.latest != listing.tag:
        return f'engine.load_checkpoint("{path}", tag="{listing.tag}")'
    return f'engine.load_checkpoint("{path}")'


def resume_of(saves: Sequence[SaveInfo], latest: str | None) -> Resume:
    """From which of the saves, the oldest first, a training can resume. `latest`: what the file in a folder of tags
    says."""
    newest = saves[-1]
    best = next((save for save in reversed(saves) if save.whole), None)
    best = best or next((save for save in reversed(saves) if save.resumable), None)
    remarks = []
    if not newest.whole:
        called = f"{newest.name}, the newest," if len(saves) > 1 and best is not newest else newest.name
        remarks.append(f"{called} {_lack(newest)}")
    if latest is not None:
        named = next((save for save in saves if save.name == latest), None)
        if named is None:
            remarks.append(f"latest names {latest}, which is not there")
        elif best is not None and named is not best:
            remarks.append(f"latest names {latest}")
    return Resume(
        newest=newest.name,
        newest_whole=newest.whole,
        save=best.name if best else None,
        whole=best is not None and best.whole,
        line=best.resume_line if best else None,
        remarks=tuple(remarks),
    )


def _lack(save: SaveInfo) -> str:
    """What a save lacks, as the end of a sentence."""
    if not save.complete:
        first, reason = next(iter(save.missing.items()), ("", ""))
        more = f" and {len(save.missing) - 1} more" if len(save.missing) > 1 else ""
        if not first:
            return f"cannot be read{f': {save.lacks[0]}' if save.lacks else ''}"
        return f"is not complete: {first}{more}: {reason}"
    return f"lacks {listed(save.lacks, 4)}"


def reasons_text(missing: Mapping[str, str], lacks: Sequence[str]) -> list[str]:
    """What is wrong with a save, a line for each."""
    return [*(f"{name}: {reason}" for name, reason in missing.items()), *(f"{name}: missing" for name in lacks)]
