"""The checkpoint's and the base model's folders -> which files are copied with the weights, and which are not."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from ..archive.model_config import is_diffusers, read_config
from ..archive.places import files_in, is_directory, is_file
from ..archive.places import size_bytes as length
from ..archive.regular import Fence, open_regular, read_errors, read_small, scan
from ..errors import BadOption, DamagedFile, at, reason
from ..options.urls import absolute, is_url
from .known_files import group_of, is_left_behind, is_of_deepspeed
from .missing import missing
from .modules import MODULES, has_own_weights, modules_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..adapters.adapted import Adapted
    from ..archive.regular import Entry
    from ..catalog.facts import Origin

T = TypeVar("T")

MAX_ASSETS = 10_000
"""A checkpoint or base model with more entries than this beside the weights is refused."""
MAX_COPY_BYTES = 1 << 32
"""A larger file is not copied beside the weights. Tokenizers take megabytes, dense layers of encoders some more."""
MAX_CODE_BYTES = 1 << 24
"""A longer module of remote code is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assets:
    """The files to put beside the weights."""

    copies: dict[str, str]
    """Output name (may contain folders) -> path it is copied from."""
    from_base: tuple[str, ...]
    """Output names that come from the base model."""
    left_behind: tuple[str, ...]
    """Entries of the checkpoint that belong to training."""
    unknown: tuple[str, ...]
    """Entries of the checkpoint that are not known and not copied."""
    missing: tuple[str, ...]
    """What a loader will miss."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was not copied though it may belong to the model."""
        if not self.unknown:
            return ()
        return (f"not copied, because not known to belong to a model: {', '.join(self.unknown)}",)


def assets_beside(origin: Origin, base: str | None) -> Assets:
    """The files next to a checkpoint, completed from the base model's. Raises what `choose` raises, and
    BadOption for a directory that cannot be listed."""
    try:
        return choose(origin.root, base, tags=origin.tags, is_tag=is_tag_itself(origin))
    except OSError as error:
        raise BadOption(f"the directory cannot be read: {reason(error)}", address=(str(error.filename),)) from None


def is_tag_itself(origin: Origin) -> bool:
    """Whether the root is the tag's own folder, which lies in no checkpoint's directory."""
    own = os.path.basename(absolute(origin.root))
    return own == origin.tag and not is_directory(os.path.join(origin.root, own))


def choose(checkpoint: str, base: str | None, *, tags: Iterable[str], is_tag: bool = False) -> Assets:
    """Sort the entries of the checkpoint directory, and complete them from the base model's. `is_tag`: the directory is
    the tag itself, with DeepSpeed's files in it.

    Files that cannot be copied are refused here, before hours are spent on the weights.
    Raises OSError if a directory cannot be listed, UnsafePath for a file to be copied that is a link out of its
    directory or not a regular file, DamagedFile for too many or too large files and for a config.json that is not JSON.
    """
    copies: dict[str, str] = {}
    grouped, rest = _sorted(checkpoint)
    from_base: list[str] = []
    for files in grouped.values():
        copies |= files
    if base is not None:
        for group, files in _sorted(base)[0].items():
            if group not in grouped and group != "documents":
                copies |= files
                from_base += files
                grouped[group] = files
    in_folders = _of_modules(copies)
    copies |= {name: path for name, path in in_folders.items() if name not in copies}
    for source in [checkpoint] if base is None else [checkpoint, base]:
        for name, path in _remote_code(copies.get("config.json"), source).items():
            if copies.setdefault(name, path) == path and source == base:
                from_base.append(name)
    for path in copies.values():
        with at(path):
            _refuse_unfit(path)
    if is_tag:
        rest = [entry for entry in rest if not is_of_deepspeed(entry)]
    tags, own = set(tags), set(copies)
    left = tuple(e for e in rest if e.rstrip("/") in tags or is_left_behind(e))
    known = own.union(left, (f"{name.partition('/')[0]}/" for name in in_folders))
    unknown = tuple(e for e in rest if e not in known)
    return Assets(
        copies=copies,
        from_base=tuple(from_base),
        left_behind=left,
        unknown=unknown,
        missing=missing({*grouped, *_not_needed(copies.get("config.json"))}, checkpoint, base, is_tag=is_tag)
        if has_own_weights(modules_of(copies))
        else (),
    )


def _not_needed(config: str | None) -> tuple[str, ...]:
    """Groups of files that a model of this config has no use for."""
    return ("tokenizer",) if config is not None and is_diffusers(read_config(config)) else ()


def _of_modules(copies: Mapping[str, str]) -> dict[str, str]:
    """The files of modules of sentence-transformers whose folders have names of their own, as behind a Router."""
    modules = modules_of(copies)
    root = os.path.dirname(copies[MODULES]) if modules else ""
    found: dict[str, str] = {}
    for folder in dict.fromkeys(module.folder for module in modules if module.folder):
        if is_directory(os.path.join(root, folder)):
            with at(folder):
                found |= _tree(os.path.join(root, folder), folder, Fence(root))
    return found


def _refuse_unfit(path: str) -> None:
    if os.path.basename(path) == "config.json":
        read_config(path)
        return
    if is_url(path):
        with read_errors():
            size_bytes = length(path)
    else:
        with read_errors():
            fd = open_regular(path)
        size_bytes = os.fstat(fd).st_size
        os.close(fd)
    if size_bytes > MAX_COPY_BYTES:
        raise DamagedFile(
            "the file is too large to be copied with the weights",
            expected=f"at most {MAX_COPY_BYTES} bytes",
            found=size_bytes,
        )


def _sorted(directory: str) -> tuple[dict[str, dict[str, str]], list[str]]:
    """({group: {output name: path}}, the entries in no group); folders end in `/`."""
    grouped: dict[str, dict[str, str]] = {}
    rest: list[str] = []
    fence = Fence(directory)
    for entry in sorted(_few(scan(directory)), key=lambda e: e.name):
        is_folder = _is_folder(entry)
        name = entry.name + ("/" if is_folder else "")
        group = group_of(name)
        if group is None:
            rest.append(name)
            continue
        with at(name):
            if is_folder:
                grouped.setdefault(group, {}).update(_tree(entry.path, entry.name, fence))
            else:
                fence.check(entry.path)
                grouped.setdefault(group, {})[name] = entry.path
    return grouped, rest


def _is_folder(entry: Entry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _few(entries: Iterable[T]) -> list[T]:
    listed = list(islice(entries, MAX_ASSETS + 1))
    if len(listed) > MAX_ASSETS:
        raise DamagedFile("there are too many files to copy with the weights", expected=f"at most {MAX_ASSETS}")
    return listed


def _tree(path: str, prefix: str, fence: Fence) -> dict[str, str]:
    found = {}
    for source in _few(files_in(path)):
        fence.check(source)
        found[os.path.normpath(os.path.join(prefix, os.path.relpath(source, path)))] = source
    return dict(sorted(found.items()))


def _remote_code(config: str | None, directory: str) -> dict[str, str]:
    """The modules that `auto_map` in config.json names, and those they import relatively."""
    if config is None:
        return {}
    try:
        auto_map = read_config(config).get("auto_map")
    except (DamagedFile, AttributeError):
        return {}  # said when the config is written
    wanted = [
        reference.rpartition("--")[2].partition(".")[0]
        for value in (auto_map.values() if isinstance(auto_map, dict) else ())
        for reference in (value if isinstance(value, list) else [value])
        if isinstance(reference, str) and "--" not in reference  # "owner/repo--module.Class" lives on the hub
    ]
    found: dict[str, str] = {}
    fence = Fence(directory)
    while wanted:
        module = wanted.pop()
        name, path = f"{module}.py", os.path.join(directory, f"{module}.py")
        # An identifier is not a path: not absolute, not upwards.
        if module.isidentifier() and name not in found and is_file(path):
            with at(name):
                fence.check(path)
                found[name] = path
                wanted += _relative_imports(read_small(path, MAX_CODE_BYTES))
    return found


_RELATIVE_IMPORT = re.compile(rb"^[ \t]*from[ \t]+\.(\w*)[ \t]+import[ \t]+([\w \t,]*)", re.MULTILINE)


def _relative_imports(code: bytes) -> list[str]:
    """Modules that are imported relatively. By pattern, as transformers does it: Python's parser can be crashed."""
    modules: list[str] = []
    for match in _RELATIVE_IMPORT.finditer(code):
        module, names = (part.decode("utf-8", "replace") for part in match.groups())
        modules += [module] if module else [name.split()[0] for name in names.split(",") if name.strip()]
    return modules


def of_adapters(chosen: Assets, adapted: Adapted) -> Assets:
    """The files beside adapters, or beside a merged model: an adapter has its configuration in place of a model's, and
    a merged model is not what the adapter's model card describes."""
    copies = dict(chosen.copies)
    left_behind, missing = list(chosen.left_behind), chosen.missing
    if adapted.is_adapter:
        for name in chosen.from_base:
            copies.pop(name, None)
        copies |= adapted.config_files
        left_behind, missing = [entry for entry in left_behind if entry not in adapted.config_files], ()
    elif copies.pop("README.md", None):
        left_behind.append("README.md")
    own = {f"{folder}/" for folder in adapted.folders}
    unknown = tuple(entry for entry in chosen.unknown if entry not in own)
    return replace(chosen, copies=copies, left_behind=tuple(left_behind), missing=missing, unknown=unknown)
