"""The files of a save, seen again and again -> whether all ranks have written them, by the monotonic clock alone."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..saves.facts import Examined, Listing

UNNAMED_SECONDS = 60.0
"""After so many seconds without a change, a complete save is taken that `latest` does not name: the file may be left
out (`save_latest=False`), and a training that dies just before it is written leaves a whole save."""


class State(Enum):
    """What can be said of a save now."""

    CHANGING = "something writes to it"
    INCOMPLETE = "files of ranks are missing"
    UNNAMED = "the file `latest` does not name it yet"
    READY = "all ranks have written it"


@dataclass(slots=True)
class _Seen:
    signature: tuple[object, ...]
    since: float
    examined: Examined | None = None


class Settling:
    """What was seen of each save before. `read` gives the metadata of a save."""

    def __init__(self, read: Callable[[Listing], Examined]) -> None:
        self._read = read
        self._seen: dict[str, _Seen] = {}

    def state(self, listing: Listing, now: float, *, is_newest: bool = True) -> State:
        """What can be said of the save that is now like this; `now` as `time.monotonic` gives it."""
        seen = self._seen.get(listing.name)
        if seen is None or seen.signature != listing.signature:
            self._seen[listing.name] = _Seen(listing.signature, now)
            return State.CHANGING
        if not listing.states:
            return State.INCOMPLETE
        if seen.examined is None:
            # Once for each state of the files: torch writes what tells that a file is whole at its end.
            seen.examined = self._read(listing)
        if seen.examined.problem is not None or seen.examined.missing:
            return State.INCOMPLETE
        # DeepSpeed's first rank writes `latest` when all ranks are done.
        is_named = listing.latest in (None, listing.tag) or (listing.is_tag and not is_newest)
        return State.READY if is_named or now - seen.since >= UNNAMED_SECONDS else State.UNNAMED

    def missing(self, name: str) -> Mapping[str, str]:
        """Why files of a save that is not complete cannot be used."""
        seen = self._seen.get(name)
        return seen.examined.missing if seen and seen.examined else {}
