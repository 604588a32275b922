"""From the path people have in hand to the files of one tag."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from ..errors import NotACheckpoint, at
from . import names
from .raw import CheckpointFiles

if TYPE_CHECKING:
    from .names import FileKind, FileName


def discover(path: str | os.PathLike[str], tag: str | None = None) -> CheckpointFiles:
    """Find the checkpoint in `path`: a directory with `latest` and tags, or a tag directory itself.

    Without `tag`, `latest` decides, or the only tag there is. Raises NotACheckpoint, naming what was found instead.
    """
    root = os.path.normpath(os.fspath(path))
    with at(root):
        entries = _list(root)
        if tag is None and any(names.parse(entry) for entry in entries):
            parent, own = os.path.split(os.path.abspath(root))
            return _files(root=parent, tag=own, directory=root, tags=(own,), latest=None)
        tags = tuple(entry for entry in natural(entries) if _is_tag(root, entry))
        latest = _latest(root) if "latest" in entries else None
        chosen = tag if tag is not None else _choose(entries, tags, latest)
        if chosen not in tags:
            raise NotACheckpoint(_wrong_tag(chosen, tags, given=tag is not None, directory=root))
        return _files(root=root, tag=chosen, directory=os.path.join(root, chosen), tags=tags, latest=latest)


def natural(strings: list[str]) -> list[str]:
    """Sorted with numbers inside compared as numbers: `global_step9` before `global_step10`."""
    return sorted(strings, key=lambda s: [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"([0-9]+)", s)])


def _list(root: str) -> list[str]:
    try:
        return sorted(os.listdir(root))
    except NotADirectoryError:
        parent = os.path.dirname(root) or "."
        raise NotACheckpoint(f"this is a file; expected the checkpoint's directory, perhaps {parent}") from None
    except FileNotFoundError:
        raise NotACheckpoint("there is no such directory; expected a DeepSpeed checkpoint") from None
    except PermissionError:
        raise NotACheckpoint("the directory cannot be read: permission denied") from None


def _is_tag(root: str, entry: str) -> bool:
    try:
        with os.scandir(os.path.join(root, entry)) as inside:
            return any(names.parse(file.name) for file in inside)
    except OSError:
        return False


def _latest(root: str) -> str:
    with at("latest"):
        try:
            with open(os.path.join(root, "latest"), "rb") as file:
                text = file.read(4096).decode("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise NotACheckpoint(f"the file that names the newest tag cannot be read: {error}") from None
        if not text or "/" in text or "\\" in text or text in (".", "..") or not text.isprintable():
            raise NotACheckpoint(f"the file must name a folder beside it; got {text!r:.80}")
        return text


def _choose(entries: list[str], tags: tuple[str, ...], latest: str | None) -> str:
    if latest is not None:
        return latest
    if len(tags) == 1:
        return tags[0]
    if tags:
        raise NotACheckpoint(f"there are several tags and no file `latest`; choose one with --tag: {', '.join(tags)}")
    runs = [entry for entry in natural(entries) if re.fullmatch(r"checkpoint-[0-9]+", entry)]
    if runs:
        raise NotACheckpoint(
            f"this is a directory of checkpoints, not a checkpoint; name one of them: {', '.join(runs)}"
        )
    raise NotACheckpoint(
        "this is not a DeepSpeed checkpoint; expected a file `latest`, a folder such as global_step500, or files "
        f"such as zero_pp_rank_0_mp_rank_00_optim_states.pt, got {', '.join(entries[:8]) or 'an empty directory'}"
    )


def _wrong_tag(tag: str, tags: tuple[str, ...], *, given: bool, directory: str) -> str:
    there = f"the tags here are: {', '.join(tags)}" if tags else "there are no tags here"
    who = f"there is no tag {tag!r}" if given else f"the file `latest` names the tag {tag!r}, which is not here"
    if tag and "/" not in tag and os.path.isdir(os.path.join(directory, tag)):
        who = f"the folder {tag!r} holds no checkpoint files"
    return f"{who}; {there}"


def _files(*, root: str, tag: str, directory: str, tags: tuple[str, ...], latest: str | None) -> CheckpointFiles:
    found: dict[FileKind, list[FileName]] = {}
    for name in _list(directory):
        parsed = names.parse(name)
        if parsed:
            found.setdefault(parsed[0], []).append(parsed[1])
    return CheckpointFiles(
        root=root,
        tag=tag,
        directory=directory,
        tags=tags,
        latest=latest,
        files={kind: tuple(sorted(files)) for kind, files in found.items()},
    )
