"""Options, input files and plan -> a fingerprint: an interrupted conversion continues only if it is equal."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from ..archive.places import identity, look_anew
from ..errors import DamagedFile, reason
from ..options.mapped import EVERYTHING_HERE
from ..options.urls import real
from ..plan.begins import begins
from ..plan.congruent import Sharing
from ..run.local import NOTHING_KNOWN
from .journal import ORIGINS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ..options.mapped import Mapped
    from ..plan.layout import FilePlan
    from .journal import Fingerprint


def fingerprint(
    *,
    version: str,
    options: Mapping[str, object],
    sources: Iterable[str],
    layout: Sequence[FilePlan],
    sharing: Sharing | None,
    parts: int | None = None,
    places: Mapped = EVERYTHING_HERE,
    known: Mapping[str, Mapping[str, int | str]] = NOTHING_KNOWN,
) -> Fingerprint:
    """The options, the input files with sizes and times, the output files with their headers and with where each of
    their tensors begins in the input, what their layout goes by, in how many parts they are made if each is made by a
    command of its own, and our version. `places`: where this machine sees what the others call otherwise. `known`: what
    input files looked like before they were read.

    Where every byte comes from follows from these by arithmetic, so the copies themselves are not in it. Where tensors
    begin is: checkpoints in another order, or a function that exchanges two names, change nothing else.
    Raises DamagedFile if an input file has gone, or is no longer what was read to plan the output.
    """
    named = dict.fromkeys(sources)
    called = {path: places.called(real(path)) for path in named}
    paths = sorted(set(map(real, named)))
    for path in named:
        if path in known and _looks(path) != known[path]:
            raise _changed(path, "convert again")
    # Of a store it is what was listed when the metadata were read, if that is moments ago: what they belong to.
    exact: Fingerprint = json.loads(
        json.dumps(
            {
                "options": dict(options),
                "source": {places.called(path): _looks(path) for path in paths},
                "output": {
                    file.name: {
                        "bytes": file.size_bytes,
                        "header": hashlib.sha256(file.header).hexdigest()[:16],
                        ORIGINS: _origins(file, called),
                    }
                    for file in layout
                },
                "layout": {}
                if sharing is None
                else {"block_bytes": sharing.block_bytes, "apart": sorted(sharing.apart)},
                "parts": {} if parts is None else {"count": parts},
                "zeroconsolidate": {"version": version},
            }
        )
    )
    return exact


def _origins(file: FilePlan, called: Mapping[str, str]) -> str:
    """A digest of where the tensors of an output file begin in input files, which are `called` so by all machines."""
    digest = hashlib.sha256()
    for tensor in file.tensors:
        for begin in begins(tensor.recipe):
            place = (called.get(begin[0], begin[0]), begin[1]) if isinstance(begin, tuple) else begin
            digest.update(f"{place!r}\n".encode())
        digest.update(b"\n")
    return digest.hexdigest()[:16]


def sharing_in(before: Fingerprint, *, insisted: bool) -> Sharing | None:
    """What the layout of an earlier run goes by: the run that continues it cannot have another, whatever the file
    system says today."""
    known = before.get("layout")
    if not known:
        return None
    return Sharing(block_bytes=known["block_bytes"], apart=frozenset(known["apart"]), insisted=insisted)


def parts_in(before: Fingerprint) -> int | None:
    """In how many parts a conversion is being made, None for one that a single command makes."""
    count: int | None = before.get("parts", {}).get("count")
    return count


def refuse_changed(before: Fingerprint, *, start_over: str, places: Mapped = EVERYTHING_HERE) -> None:
    """Raise DamagedFile if an input file is not what it was when the fingerprint was taken.

    `start_over`: how. Someone may have trained on into the same folder while we read: half of each file would be of
    another step.
    """
    paths = {places.seen(path): looks for path, looks in before["source"].items()}
    look_anew(paths)
    for path, looks in paths.items():
        if _looks(path) != looks:
            raise _changed(path, start_over)


def _changed(path: str, again: str) -> DamagedFile:
    return DamagedFile(
        "the file was changed while it was being converted",
        consequence="no output was written",
        remedy=f"wait until nothing writes to it, then {again}",
        address=(path,),
    )


def _looks(path: str) -> dict[str, Any]:
    try:
        return identity(path)
    except OSError as error:
        raise DamagedFile(f"the file cannot be read any more: {reason(error)}", address=(path,)) from None
