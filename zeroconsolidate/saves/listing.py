"""A directory -> its saves, from the names, sizes and times of files alone."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..archive import names
from ..archive.discover import LATEST, natural, tags_in
from ..archive.places import look_anew
from ..archive.regular import InStore, read_small, scan
from ..errors import NotACheckpoint, StoreFailed, ZeroConsolidateError, reason
from ..options.urls import absolute, normal
from ..options.urls import real as real_path
from .facts import Listing

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..archive.regular import Status

_SAVE = re.compile(r"(?:tmp-)?checkpoint[-_][0-9]+|global_step[0-9]+|.+\.ckpt")
"""A folder with such a name is a save, even if nothing of DeepSpeed is in it."""
_INSIDE = "checkpoints"
"""Where accelerate and Lightning put their saves in the directory that they were given."""
_MAX_LATEST_BYTES = 4096


@dataclass(frozen=True, slots=True)
class _Folder:
    """What is in a folder."""

    files: dict[str, Status]
    folders: dict[str, str]
    """Name -> path."""

    def sizes(self, *, of_deepspeed: bool) -> dict[str, int]:
        return {
            name: status.st_size
            for name, status in self.files.items()
            if (names.parse(name) is not None) is of_deepspeed
        }

    def identities(self) -> tuple[str, ...]:
        return tuple(status.identity for status in self.files.values() if isinstance(status, InStore))

    def changed_ns(self) -> int:
        return max((status.st_mtime_ns for status in self.files.values()), default=0)


@dataclass(frozen=True, slots=True)
class Found:
    """The saves in a directory."""

    is_run: bool
    """Whether each save is a folder of its own in it, so that it is no checkpoint itself."""
    latest: str | None
    """The tag that the file `latest` names, in a folder of tags."""
    listings: tuple[Listing, ...]


def list_saves(roots: Sequence[str]) -> Found:
    """The saves in a run directory, in a folder of tags, or the one of a checkpoint; of several nodes' directories
    together. None, if it is something else. Raises NotACheckpoint if a directory cannot be listed."""
    parts = [_list(normal(root)) for root in roots]
    merged: dict[str, Listing] = {}
    for part in parts:
        for listing in part.listings:
            before = merged.get(listing.name)
            merged[listing.name] = listing if before is None else _together(before, listing)
    if len(parts) > 1 and not any(part.is_run for part in parts) and len(merged) > 1:
        # Each node's directory has a name of its own, and is one checkpoint.
        alone = [part.listings[0] for part in parts if len(part.listings) == 1 and not part.listings[0].is_tag]
        if len(alone) == len(parts):
            first = alone[0]
            for other in alone[1:]:
                first = _together(first, other)
            merged = {first.name: first}
    return Found(
        is_run=any(part.is_run for part in parts),
        latest=next((part.latest for part in parts if part.latest), None),
        listings=tuple(merged[name] for name in natural(list(merged))),
    )


def list_again(listing: Listing) -> Listing | None:
    """The same save as it is now; None if it has gone."""
    look_anew(listing.paths)
    now: Listing | None = None
    for path in listing.paths:
        try:
            found = _list_tag(path, listing.name) if listing.is_tag else _list_save(path, listing.name)
        except NotACheckpoint:
            continue
        if found is not None:
            now = found if now is None else _together(now, found)
    return now


def _list(root: str) -> Found:
    here = _folder(root)
    own = os.path.basename(absolute(root))
    if any(map(names.parse, here.files)):
        return Found(is_run=False, latest=None, listings=(_listing(own, root, here, here, tag=None),))
    latest = _latest(root, here)
    tags = _tags(root, here)
    if tags:
        begun = [name for name in here.folders if re.fullmatch(r"global_step[0-9]+", name) and name not in tags]
        if len(tags) + len(begun) == 1:
            (tag,) = tags
            alone = _listing(own, root, here, tags[tag], tag=tag, latest=latest)
            return Found(is_run=False, latest=latest, listings=(alone,))
        found = [_of_tag(root, name, tags.get(name) or _Folder({}, {}), latest) for name in natural([*tags, *begun])]
        return Found(is_run=False, latest=latest, listings=tuple(found))
    real = {real_path(path): name for name, path in here.folders.items() if not os.path.islink(path)}
    saves = []
    for name, path in here.folders.items():
        if name.startswith(".") or (os.path.islink(path) and real_path(path) in real):
            continue  # hidden, or a second name of a save beside it, as Lightning's `last.ckpt` is
        try:
            save = _list_save(path, name)
        except NotACheckpoint:
            continue
        if save is not None:
            saves.append(save)
    if not saves and _INSIDE in here.folders:
        inside = _list(here.folders[_INSIDE])
        return inside if inside.is_run else Found(is_run=False, latest=None, listings=())
    return Found(is_run=bool(saves), latest=None, listings=tuple(saves))


def _list_save(path: str, name: str) -> Listing | None:
    """The save in a folder of a run; None if the folder is none."""
    here = _folder(path)
    tags = _tags(path, here)
    latest = _latest(path, here)
    if tags:
        tag = latest if latest in tags else natural(list(tags))[-1]
        return _listing(name, path, here, tags[tag], tag=tag, latest=latest)
    if _SAVE.fullmatch(name) and "zeroconsolidate.json" not in here.files:
        return _listing(name, path, here, _Folder({}, {}), tag=None, latest=latest)
    return None


def _list_tag(root: str, name: str) -> Listing | None:
    here = _folder(root)
    if name not in here.folders:
        return None
    return _of_tag(root, name, _folder(here.folders[name]), _latest(root, here))


def _of_tag(root: str, name: str, inside: _Folder, latest: str | None) -> Listing:
    """One of several tags: what lies beside them belongs to none."""
    return replace(_listing(name, root, _Folder({}, {}), inside, tag=name, latest=latest), is_tag=True)


def _listing(
    name: str, path: str, here: _Folder, inside: _Folder, *, tag: str | None, latest: str | None = None
) -> Listing:
    return Listing(
        name=name,
        paths=(normal(path),),
        tag=tag,
        is_tag=False,
        latest=latest,
        states=inside.sizes(of_deepspeed=True),
        beside=here.sizes(of_deepspeed=False),
        changed_ns=max(here.changed_ns(), inside.changed_ns()),
        identities=(*here.identities(), *inside.identities()),
    )


def _together(one: Listing, other: Listing) -> Listing:
    """The files of one save on two nodes."""
    return replace(
        one,
        paths=(*one.paths, *(path for path in other.paths if path not in one.paths)),
        tag=one.tag or other.tag,
        latest=one.latest or other.latest,
        states={**other.states, **one.states},
        beside={**other.beside, **one.beside},
        changed_ns=max(one.changed_ns, other.changed_ns),
        identities=(*one.identities, *other.identities),
    )


def _folder(path: str) -> _Folder:
    files: dict[str, Status] = {}
    folders: dict[str, str] = {}
    try:
        for entry in sorted(scan(path), key=lambda entry: entry.name):
            try:
                if entry.is_dir():
                    folders[entry.name] = entry.path
                else:
                    files[entry.name] = entry.stat()
            except OSError:
                continue  # it has just gone, or is a link to nowhere
    except NotADirectoryError:
        raise NotACheckpoint("this is a file", expected="a directory", address=(path,)) from None
    except FileNotFoundError:
        raise NotACheckpoint("there is no such directory", address=(path,)) from None
    except ZeroConsolidateError:
        raise
    except OSError as error:
        raise NotACheckpoint(f"the directory cannot be read: {reason(error)}", address=(path,)) from None
    return _Folder(files, folders)


def _tags(path: str, here: _Folder) -> dict[str, _Folder]:
    """The folders with files of DeepSpeed in them. Of the others no more is read than shows that they are none."""
    found = {}
    for name in tags_in(path):
        try:
            found[name] = _folder(here.folders[name])
        except StoreFailed:
            raise
        except ZeroConsolidateError:
            continue
    return found


def _latest(root: str, here: _Folder) -> str | None:
    for name in _first(LATEST, here.files):
        try:
            return read_small(os.path.join(root, name), _MAX_LATEST_BYTES).decode("utf-8", "replace").strip() or None
        except StoreFailed:
            raise
        except ZeroConsolidateError:
            return None
    return None


def _first(wanted: Iterable[str], there: Iterable[str]) -> list[str]:
    known = set(there)
    return [name for name in wanted if name in known][:1]
