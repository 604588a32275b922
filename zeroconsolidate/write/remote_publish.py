"""Uploads and staged objects -> final names; or away with them. If it is interrupted, it can be done again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ..archive.model_files import ADAPTER_CONFIG, BESIDE_FOLDER, NON_LORA_WEIGHTS, OPTIMIZER_FOLDER, is_weights
from ..archive.phrases import listed
from ..archive.places import files_in, look_anew, names_in, size_bytes, sizes_in
from ..errors import OutputExists, OutputFailed, at
from .publish import DESCRIBES, INDICES, is_optimizer_file
from .refusals import JOURNAL, STAGING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from ..integrations.object_uploads import Uploads


def staged(output: str, name: str) -> str:
    """Where a small file waits for its name."""
    return f"{output}/{STAGING}/files/{name}"


def refuse_existing(output: str, *, overwrite: bool, ours: Sequence[str] = ()) -> None:
    """Nothing may be there but what is staged and files that are `ours`. Raises OutputExists."""
    if overwrite:
        return
    known = {STAGING, *(name.partition("/")[0] for name in ours)}
    there = sorted(set(_names(output)) - known)
    if there:
        raise OutputExists(
            f"the output directory is not empty ({listed(there, 3)})", remedy="replace its model with --overwrite"
        )


def publish(
    output: str,
    uploads: Uploads,
    names: Sequence[str],
    sizes: Mapping[str, int],
    *,
    last: Collection[str],
    uploads_begun: Mapping[str, str],
    overwrite: bool,
    again: str,
) -> None:
    """Give all files their names: an upload in parts is completed, a staged object copied. Those in `last` follow one
    after the other, when the store lists all others with their sizes. `again`: what to do if one cannot be.

    Raises OutputFailed if a file is neither staged nor, with its size, in place.
    """
    there = set(_files(f"{output}/{STAGING}/files"))
    if overwrite:
        # What describes a set of weights must never stand beside weights of another set.
        uploads.remove(f"{output}/{name}" for name in DESCRIBES if name not in sizes or name in there)

    def give(name: str) -> None:
        url, upload = f"{output}/{name}", uploads_begun.get(name)
        parts = uploads.parts(url, upload) if upload is not None and uploads.is_resumable else None
        with at(name):
            if name in there:
                uploads.copy(staged(output, name), url)
            elif parts and upload is not None:
                uploads.complete(url, upload, {number: part.etag for number, part in parts.items()})

    first = [name for name in names if name not in last]
    several = max(uploads.in_flight, uploads.objects_in_flight)
    with ThreadPoolExecutor(several, thread_name_prefix="zeroconsolidate-publish") as pool:
        for given in [pool.submit(give, name) for name in first]:
            given.result()
    _refuse_wrong_sizes(sizes_in(output), first, sizes, again)
    for name in names:
        if name in last:
            give(name)
            _refuse_wrong_sizes(_listed(output, name), [name], sizes, again)
    if overwrite:
        uploads.remove(f"{output}/{name}" for name in _files(output) if _is_replaced(name, sizes))


def _refuse_wrong_sizes(there: Mapping[str, int], names: Sequence[str], sizes: Mapping[str, int], again: str) -> None:
    """The store must list the objects with the sizes that were planned. `there`: what it lists."""
    for name in names:
        with at(name):
            if name not in there:
                raise OutputFailed("the finished file has been removed", remedy=again)
            if there[name] != sizes[name]:
                raise OutputFailed(
                    "the store has another file than was sent",
                    expected=f"{sizes[name]} bytes",
                    found=there[name],
                    remedy=again,
                )


def _listed(output: str, name: str) -> dict[str, int]:
    """The size of a file as the store lists it; empty if it is not there."""
    look_anew([output])
    try:
        return {name: size_bytes(f"{output}/{name}")}
    except FileNotFoundError:
        return {}


def _is_replaced(name: str, sizes: Mapping[str, int]) -> bool:
    """Whether a file belongs to weights that stood here before."""
    if name in sizes or name.startswith(f"{STAGING}/"):
        return False
    folder, _, own = name.rpartition("/")
    if folder == OPTIMIZER_FOLDER:
        return is_optimizer_file(own)
    return (not folder and (is_weights(name) or name in (*INDICES, ADAPTER_CONFIG))) or (
        name == f"{BESIDE_FOLDER}/{NON_LORA_WEIGHTS}"
    )


def abandon(output: str, uploads: Uploads) -> list[str]:
    """Remove what is staged of an output: uploads in parts, and objects in the staging folder. Returns their names."""
    begun = uploads.unfinished(output)
    for url, upload in begun:
        uploads.give_up(url, upload)
    left = _files(f"{output}/{STAGING}")
    # The journal goes last: it says that there is something to be removed.
    uploads.remove(f"{output}/{STAGING}/{name}" for name in left if name != JOURNAL)
    if JOURNAL in left:
        uploads.remove([f"{output}/{STAGING}/{JOURNAL}"])
    return [*(url.removeprefix(f"{output}/") for url, _ in begun), *(f"{STAGING}/{name}" for name in left)]


def how_to_remove(output: str) -> tuple[str, ...]:
    """What to do with an upload that is not continued."""
    return (f"the same command continues; with --abort it removes what has been uploaded to {output}",)


def _names(folder: str) -> list[str]:
    look_anew([f"{folder}/x"])
    try:
        return names_in(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _files(folder: str) -> list[str]:
    try:
        return [path.removeprefix(f"{folder}/") for path in files_in(folder)]
    except FileNotFoundError:
        return []
