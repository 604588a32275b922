"""Several directories, such as nodes' own disks -> the files of one checkpoint."""

from __future__ import annotations

import filecmp
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import DamagedFile, Disagreement, NotACheckpoint, at
from ..options.urls import is_url
from .container import ZipContainer
from .discover import discover
from .model_config import has_config
from .names import one_of_each
from .places import is_same_file
from .regular import read_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .names import FileKind, FileName
    from .raw import CheckpointFiles


def gather(roots: Sequence[str], tag: str | None = None) -> CheckpointFiles:
    """The files of one tag from all `roots` together; a file that several of them have must be the same.

    The first root with a config.json is the one whose config and tokenizer are used. Raises what `discover`
    raises, and Disagreement if the roots are of different tags or have different files of one name.
    """
    parts = _parts(roots, tag)
    if len(parts) == 1:
        return parts[0]
    main = next((part for part in parts if has_config(part.root)), parts[0])
    paths: dict[str, str] = {}
    found: dict[FileKind, dict[str, FileName]] = {}
    for part in sorted(parts, key=lambda part: part is not main):
        for kind, names in part.files.items():
            for name in names:
                path = part.path(name)
                if name.name in paths:
                    _same(paths[name.name], path)
                paths.setdefault(name.name, path)
                found.setdefault(kind, {})[name.name] = name
    return replace(
        main,
        files={kind: one_of_each(names.values()) for kind, names in found.items()},
        elsewhere={name: path for name, path in paths.items() if path != f"{main.directory}/{name}"},
        latest=next((part.latest for part in parts if part.latest), None),
        looks={path: look for part in parts for path, look in part.looks.items()},
    )


def _parts(roots: Sequence[str], tag: str | None) -> list[CheckpointFiles]:
    """Each root's files. One that cannot tell its tag (`latest` is on another node) has that of the others."""
    parts: dict[str, CheckpointFiles] = {}
    puzzled: list[tuple[str, NotACheckpoint]] = []
    for root in dict.fromkeys(roots):
        try:
            parts[root] = discover(root, tag)
        except NotACheckpoint as error:
            if tag is not None or len(roots) == 1:
                raise
            puzzled.append((root, error))
    tags = sorted({part.tag for part in parts.values()})
    if len(tags) > 1:
        raise Disagreement(
            "the directories belong to different saves",
            expected="one tag",
            found=", ".join(tags),
            remedy="choose one with --tag",
        )
    if not tags:
        raise puzzled[0][1]
    for root, _ in puzzled:
        parts[root] = discover(root, tags[0])
    return [parts[root] for root in dict.fromkeys(roots)]


def _same(one: str, other: str) -> None:
    """Two files of the same name must be copies: the same records with the same checksums, else the same bytes."""
    if is_same_file(one, other):
        return
    with at(os.path.basename(one)):
        if not _equal(one, other):
            raise Disagreement(
                f"two directories have this file, and they differ: {one} and {other}",
                remedy="move away the one that belongs to another save",
            )


def _equal(one: str, other: str) -> bool:
    looks = [_looks(path) for path in (one, other)]
    if None not in looks:
        return looks[0] == looks[1]
    if is_url(one) or is_url(other):
        return False  # both would be read whole
    with read_errors():
        return filecmp.cmp(one, other, shallow=False)


def _looks(path: str) -> tuple[int, object] | None:
    """What is equal for copies only, without reading gigabytes. None if nothing in the file can tell: it is damaged,
    in torch's older container, or written without checksums (`torch.serialization.set_crc32_options(False)`)."""
    try:
        with ZipContainer(path) as container:
            if all(crc32 == 0 for _, size_bytes, crc32 in container.checksums if size_bytes):
                return None
            return container.size_bytes, container.checksums
    except (OSError, DamagedFile):
        return None
