"""A hub id -> the directory of the model, which huggingface_hub finds or downloads."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from importlib.util import find_spec

from ..errors import BadOption
from .packages import install

_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
"""`owner/name`, and after `@` a branch, tag or commit."""

FILES = ("*.safetensors", "*.bin", "*.pt", "*.json", "*.txt", "*.model", "*.py", "*.jinja", "*.spm", "*.tiktoken")
"""What is downloaded: weights, config, tokenizer, remote code; not the weights of other frameworks."""


def is_hub_id(base: str) -> bool:
    """Whether this could be the name of a model on the hub.

    >>> is_hub_id("BAAI/bge-m3"), is_hub_id("../bge-m3"), is_hub_id("runs/base/")
    (True, False, False)
    """
    return _ID.fullmatch(base) is not None and not base.startswith(".")


@dataclass(frozen=True, slots=True)
class Cached:
    """A snapshot in the cache of huggingface_hub, as its path shows."""

    name: str
    """`owner/name`."""
    commit: str
    repository: str
    """The folder of all its snapshots."""

    def commit_of(self, revision: str) -> str | None:
        """The commit that a branch, tag or commit stands for; None if the cache does not say."""
        if re.fullmatch("[0-9a-f]{40}", revision):
            return revision
        path = os.path.join(self.repository, "refs", revision)
        if ".." in revision.split("/") or not os.path.isfile(path):
            return None
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(64).strip()


def cached_as(directory: str) -> Cached | None:
    """The model of the hub that a directory is a snapshot of, by its place in the cache; None if it is not in the
    cache.

    >>> cached_as("hub/models--BAAI--bge-m3/snapshots/5617").name
    'BAAI/bge-m3'
    """
    above, commit = os.path.split(os.path.abspath(directory))
    repository, snapshots = os.path.split(above)
    kind, *name = os.path.basename(repository).split("--")
    if snapshots != "snapshots" or kind != "models" or len(name) != 2:
        return None
    return Cached("/".join(name), commit, repository)


def in_cache(base: str, revision: str | None) -> str | None:
    """The snapshot of a hub id in the offline cache; None if it is not there. Nothing is downloaded."""
    if not is_hub_id(base) or os.path.lexists(base) or find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import snapshot_download

    name, _, chosen = base.partition("@")
    try:
        return str(snapshot_download(name, revision=chosen or revision, local_files_only=True))
    except Exception:  # noqa: BLE001  (not cached, or no name of a model: huggingface_hub has a class for each)
        return None


def resolved(base: str) -> str:
    """The directory of a base model: `base` itself, or the snapshot of a hub id `owner/name[@revision]`.

    What is in the offline cache is taken from there. Raises BadOption if it is neither, if huggingface_hub is not
    installed, or if it finds nothing.
    """
    if os.path.isdir(base):
        return base
    near = _near(base)
    if os.path.lexists(base):
        raise BadOption("the base model must be a directory", found=f"the file {base}", remedy=near)
    if not is_hub_id(base):
        raise BadOption(
            f"no such directory: {base or repr(base)}", consequence="it is not a hub id either", remedy=near
        )
    if find_spec("huggingface_hub") is None:
        raise BadOption(
            f"no such directory: {base}",
            consequence="huggingface_hub is needed to look for it on the hub",
            remedy=(*([near] if near else []), install("hub")),
        )
    from huggingface_hub import snapshot_download

    name, _, revision = base.partition("@")
    try:
        directory = snapshot_download(name, revision=revision or None, allow_patterns=list(FILES))
    except Exception as error:  # noqa: BLE001  (network, permissions, names: huggingface_hub has a class for each)
        reason = str(error).strip().partition("\n")[0]
        raise BadOption(
            f"no such directory: {base}", consequence=f"huggingface_hub does not find it either: {reason}", remedy=near
        ) from None
    return str(directory)


def _near(base: str) -> str | None:
    """The directory that may have been meant."""
    above, name = os.path.split(base.rstrip("/"))
    try:
        beside = [entry.name for entry in os.scandir(above or ".") if entry.is_dir()]
    except OSError:
        return None
    from difflib import get_close_matches

    near = get_close_matches(name, beside, n=1)
    return f"did you mean {os.path.join(above, near[0])}?" if near else None
