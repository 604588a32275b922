"""A path and a tag -> the files of a checkpoint, by kind and rank."""

from __future__ import annotations

import os
import re
import shlex
from contextlib import nullcontext
from itertools import islice
from typing import TYPE_CHECKING

from ..errors import NotACheckpoint, StoreFailed, ZeroConsolidateError, at, reason
from ..options.urls import absolute, is_url, normal
from . import names
from .model_files import MANIFEST_NAME, is_weights
from .names import FileKind, FileName
from .phrases import listed
from .places import exists, is_directory, is_file, looks
from .raw import CheckpointFiles, SwapFile
from .regular import MAX_ENTRIES, Fence, read_small, scan

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from .regular import Entry


def discover(path: str | os.PathLike[str], tag: str | None = None) -> CheckpointFiles:
    """Find the checkpoint in `path`: a directory with `latest` and tags, or a tag directory itself.

    Without `tag`, `latest` decides, or the only tag there is. Raises NotACheckpoint, with what was found instead,
    UnsafePath for links that lead out of the directory, DamagedFile for a directory of too many entries.
    """
    root = normal(os.fspath(path))
    with at(root):
        entries = _list(root)
        if tag is None and any(names.parse(entry) for entry in entries):
            parent, own = os.path.split(absolute(root))
            # A tag that was moved out of its checkpoint has no business with the folder it lies in now.
            home = parent if any(exists(os.path.join(parent, name)) for name in LATEST) else root
            return _files(root=home, tag=own, directory=root, tags=(own,), latest=None, fence=Fence(root))
        tags = _tags(root, natural(entries))
        named = next((file for file in LATEST if file in entries), None)
        latest = _latest(root, named, needed=tag is None) if named else None
        chosen = tag if tag is not None else _choose(root, entries, tags, latest)
        if chosen not in tags:
            raise _wrong_tag(chosen, tags, given=tag is not None, directory=root)
        directory = os.path.join(root, chosen)
        return _files(root=root, tag=chosen, directory=directory, tags=tags, latest=latest, fence=Fence(root))


def tags_in(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Every tag in a checkpoint's directory, in natural order. Raises NotACheckpoint if it cannot be listed."""
    root = normal(os.fspath(path))
    with at(root):
        return _tags(root, natural(_list(root)))


def is_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Whether a directory holds tags, or is one."""
    try:
        entries = _list(normal(os.fspath(path)))
        return any(map(names.parse, entries)) or bool(tags_in(path))
    except StoreFailed:
        raise
    except (ZeroConsolidateError, OSError):
        return False


def natural(strings: list[str]) -> list[str]:
    """Sorted, with the numbers in them compared as numbers: `global_step9` before `global_step10`."""
    return sorted(strings, key=lambda s: [(int(p), "") if p[:1] in _DIGITS else (-1, p) for p in _NUMBERS.split(s)])


_NUMBERS = re.compile(r"([0-9]+)")
_DIGITS = tuple("0123456789")  # str.isdigit() is true of "²" as well, which int() does not take


def _list(root: str) -> list[str]:
    return sorted(entry.name for entry in _entries(root))


def _entries(root: str) -> list[Entry]:
    try:
        return list(scan(root))
    except NotADirectoryError:
        parent = os.path.dirname(root) or "."
        raise NotACheckpoint("this is a file", expected=f"the checkpoint's directory, perhaps {parent}") from None
    except FileNotFoundError:
        raise NotACheckpoint(
            "there is no such directory", expected="a DeepSpeed checkpoint", remedy=_similar(root)
        ) from None
    except OSError as error:
        raise _unreadable(root, error) from None


def _similar(path: str) -> str | None:
    """A question about the directory beside it whose name is most like it."""
    from difflib import get_close_matches

    parent, name = os.path.split(path.rstrip("/"))
    try:
        beside = [] if is_url(path) else [entry.name for entry in islice(scan(parent or "."), 1000) if entry.is_dir()]
    except OSError:
        return None
    near = get_close_matches(name, beside, n=1, cutoff=0.8)
    return f"did you mean {os.path.join(parent, near[0])}?" if near else None


def _unreadable(directory: str, error: OSError) -> NotACheckpoint:
    return NotACheckpoint(f"the directory cannot be read: {reason(error)}", address=(directory,))


def _tags(root: str, entries: list[str]) -> tuple[str, ...]:
    """The folders that hold a DeepSpeed file. At most MAX_ENTRIES entries are read in all of them together."""
    found, left = [], MAX_ENTRIES
    if is_url(root):
        entries = natural([entry.name for entry in _entries(root) if entry.is_dir()])
    for entry in entries:
        try:
            with _inside(os.path.join(root, entry)) as inside:
                for file in islice(inside, max(left, 1)):
                    left -= 1
                    if names.parse(file.name):
                        found.append(entry)
                        break
        except OSError:
            continue
    return tuple(found)


def _inside(folder: str) -> AbstractContextManager[Iterator[Entry]]:
    return nullcontext(scan(folder)) if is_url(folder) else os.scandir(folder)


def _latest(root: str, file: str, *, needed: bool) -> str | None:
    """The tag that `latest` names; None if the file is damaged and somebody else names the tag."""
    try:
        return _read_latest(root, file)
    except StoreFailed:
        raise
    except ZeroConsolidateError:
        if needed:
            raise
        return None


def _read_latest(root: str, file: str) -> str:
    with at(file):
        path = os.path.join(root, file)
        try:
            Fence(root).check(path)
            text = read_small(path, MAX_LATEST_BYTES).decode("utf-8").strip()
        except UnicodeDecodeError:
            raise NotACheckpoint("the file that names the newest tag is not text") from None
        if not text or "/" in text or "\\" in text or text in (".", "..") or not text.isprintable():
            raise NotACheckpoint("the file must name a folder beside it", found=repr(text[:80]))
        return text


LATEST = ("latest", "latest_universal")
"""Files that name a tag. `ds_to_universal` leaves the first as it is and writes the second; converted into a
directory of its own a universal checkpoint has only that."""
MAX_LATEST_BYTES = 4096
"""A longer `latest` is refused; file names have at most 255 bytes."""


def refuse_several_models(tags: Sequence[str]) -> None:
    """accelerate saves each model of a run under a tag of its own, and `latest` names the last of them
    (`save_state` in `accelerate/accelerator.py`): they are not steps of one model. Raises NotACheckpoint."""
    models = [tag for tag in tags if _MODEL_OF_ACCELERATE.fullmatch(tag)]
    if len(models) > 1:
        raise NotACheckpoint(
            f"these are {len(models)} models of one run, as accelerate saves them, not steps of one",
            remedy=tuple(f"convert one with --tag {tag}" for tag in models[:12]),
        )


_MODEL_OF_ACCELERATE = re.compile(r"pytorch_model(_[0-9]{1,6})?")


def _choose(root: str, entries: list[str], tags: tuple[str, ...], latest: str | None) -> str:
    refuse_several_models(tags)
    if latest is not None:
        return latest
    if len(tags) == 1:
        return tags[0]
    if tags:
        raise NotACheckpoint(
            "there are several tags and no file `latest`", remedy=f"choose one with --tag: {listed(tags, 12)}"
        )
    for entry in entries:
        _refuse_unreadable(os.path.join(root, entry))
    weights = natural([entry for entry in entries if is_weights(entry)])
    if weights:
        raise NotACheckpoint(
            "this is a model that zeroconsolidate wrote, not a DeepSpeed checkpoint"
            if MANIFEST_NAME in entries
            else "this is a model, not a DeepSpeed checkpoint",
            expected="a folder such as global_step500",
            found=listed(weights, 3),
            remedy=f"zeroconsolidate verify {shlex.quote(root)} says whether it is whole",
        )
    raise NotACheckpoint(
        "this is not a DeepSpeed checkpoint",
        expected=(
            "a file `latest`, a folder such as global_step500, or files such as "
            "zero_pp_rank_0_mp_rank_00_optim_states.pt"
        ),
        found=listed(entries, 12) or "an empty directory",
    )


def _wrong_tag(tag: str, tags: tuple[str, ...], *, given: bool, directory: str) -> NotACheckpoint:
    there = f"the tags here are: {listed(tags, 12)}" if tags else "there are no tags here"
    who = f"there is no tag {tag[:80]!r}" if given else f"the file `latest` names the tag {tag!r}, which is not here"
    if tag and "/" not in tag and is_directory(os.path.join(directory, tag)):
        inside = os.path.join(directory, tag)
        _refuse_unreadable(inside)
        if tag.strip(".") and is_checkpoint(inside):
            return NotACheckpoint(
                f"the folder {tag!r} is a checkpoint of its own, not a tag",
                remedy=f"zeroconsolidate convert {shlex.quote(inside)} OUTPUT",
            )
        who = f"the folder {tag!r} holds no checkpoint files"
    return NotACheckpoint(who, consequence=there)


def _refuse_unreadable(directory: str) -> None:
    """What is in a folder that may not be listed nobody knows. Raises NotACheckpoint for one."""
    if is_url(directory):
        return  # listing what is above it has told
    try:
        os.scandir(directory).close()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise _unreadable(directory, error) from None


def _files(
    *, root: str, tag: str, directory: str, tags: tuple[str, ...], latest: str | None, fence: Fence
) -> CheckpointFiles:
    found: dict[FileKind, list[FileName]] = {}
    swaps: tuple[SwapFile, ...] = ()
    with at(tag):
        fence.check(directory)
    for entry in _entries(directory):
        parsed = names.parse(entry.name)
        if parsed:
            if entry.is_symlink():
                with at(entry.name):
                    fence.check(entry.path)
            found.setdefault(parsed[0], []).append(parsed[1])
        elif entry.name == names.UNIVERSAL_FOLDER and entry.is_dir():
            for kind, file in _universal(entry.path, fence):
                found.setdefault(kind, []).append(file)
        elif entry.name == names.SWAP_FOLDER and entry.is_dir():
            swaps = tuple(_swaps(entry.path, fence))
    paths = [f"{directory}/{file.name}" for files in found.values() for file in files]
    return CheckpointFiles(
        root=root,
        tag=tag,
        directory=directory,
        tags=tags,
        latest=latest,
        files={kind: names.one_of_each(files) for kind, files in found.items()},
        swaps=swaps,
        looks=looks([*paths, *(swap.path for swap in swaps)]),
    )


def _universal(folder: str, fence: Fence) -> Iterator[tuple[FileKind, FileName]]:
    """The files of a universal checkpoint's folder. The parameters' names are the folders' names."""
    for entry in _entries(folder):
        inside = f"{names.UNIVERSAL_FOLDER}/{entry.name}"
        if entry.name == names.UNIVERSAL_STATE:
            fence.check(entry.path)
            yield FileKind.UNIVERSAL_STATE, FileName(name=inside)
        elif entry.is_dir():
            weights = os.path.join(entry.path, names.UNIVERSAL_WEIGHTS)
            if is_file(weights):
                fence.check(weights)
                yield FileKind.UNIVERSAL, FileName(name=f"{inside}/{names.UNIVERSAL_WEIGHTS}")


def _swaps(folder: str, fence: Fence) -> Iterator[SwapFile]:
    """Masters and states in the folders of the ranks whose optimizer is on NVMe."""
    for entry in sorted(_entries(folder), key=lambda entry: entry.name):
        rank = names.SWAP_RANK.fullmatch(entry.name)
        if rank and entry.is_dir():
            for file in sorted(_entries(entry.path), key=lambda file: file.name):
                match = names.SWAP_FILE.fullmatch(file.name)
                if match and file.is_file():
                    fence.check(file.path)
                    yield SwapFile(
                        state=match["state"],
                        rank=int(rank["rank"]),
                        first=int(match["first"]),
                        last=int(match["last"]),
                        path=file.path,
                        size_bytes=file.stat().st_size,
                    )
