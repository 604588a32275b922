"""The option `reflink` and the disk -> what of the checkpoint can be cloned, before anything is planned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import BadOption
from ..options.urls import is_url
from ..plan.congruent import Sharing
from ..run.clone import Means, probe
from ..write.fingerprint import sharing_in
from ..write.refusals import begun, nearest
from ..write.system import system_errors

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..options import Writing
    from ..plan.build import ModelPlan


def sharing_of(directory: str | None, files: Iterable[str], options: Writing) -> Sharing | None:
    """What an output in `directory` can share with the input files; None if it is to share nothing, or cannot.

    A run that continues another keeps to what that has decided. Raises BadOption if something must be shared and
    cannot.
    """
    if directory is None or options.reflink == "never":
        return None
    insisted = options.reflink == "always"
    if is_url(directory):
        if insisted:
            raise BadOption(
                "--reflink always: a store shares no blocks with the checkpoint",
                found=directory,
                remedy="leave out --reflink always",
            )
        return None
    before = None if options.restart else begun(directory)
    if before is not None:
        return sharing_in(before, insisted=insisted)
    with system_errors(directory):
        found = probe(nearest(directory), files)
    if insisted and found.apart:
        file, why = next(iter(found.apart.items()))
        raise BadOption(
            f"--reflink always: {directory} cannot share blocks with the checkpoint: {why}",
            expected="both on one file system that can share, such as XFS or Btrfs",
            remedy="write to the file system of the checkpoint, or leave out --reflink always",
            address=(file,),
        )
    if not found.block_bytes:
        return None
    return Sharing(block_bytes=found.block_bytes, apart=frozenset(found.apart), insisted=insisted)


def refuse_unshared(plan: ModelPlan, options: Writing) -> None:
    """Refuse a plan in which nothing is cloned although something must be. Raises BadOption."""
    if options.reflink == "always" and plan.sharing is None:
        raise BadOption(
            "--reflink always: nothing of this output can be cloned",
            expected="tensors that are copied, not computed, with more than a block of the disk a rank; of those that "
            "are cast, a copy in the checkpoint, as ZeRO stages 1 and 2 save it in the training dtype",
            remedy="leave out --reflink always",
        )


def means_of(plan: ModelPlan, options: Writing) -> Means:
    """How the planned bytes may get into the output."""
    if options.reflink == "never":
        return Means(in_kernel=False, drop_cache=options.drop_cache)  # it would share blocks by itself
    if plan.sharing is None:
        return Means(drop_cache=options.drop_cache)
    return Means(block_bytes=plan.sharing.block_bytes, must_share=plan.sharing.insisted, drop_cache=options.drop_cache)
