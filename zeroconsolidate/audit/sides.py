"""A path -> one of the two models that are compared: its tensors by the names that a loader of it expects."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..adapters.find import find_adapters
from ..archive.discover import is_checkpoint, natural
from ..archive.manifest_file import read_manifest
from ..archive.model_config import has_config, read_config
from ..archive.model_files import ADAPTER_CONFIG, BESIDE_FOLDER, CONFIG, MANIFEST_NAME
from ..archive.phrases import counted
from ..archive.places import exists, is_directory, is_file, is_same_file
from ..archive.weights import read_pickled, read_weights
from ..errors import BadOption, NotACheckpoint, WrongNames, ZeroConsolidateError
from ..integrations.hub import in_cache, is_hub_id, resolved
from ..opening.open import open_catalog
from ..opening.opened import of_catalog
from ..options import InspectOptions, Options
from ..options.urls import is_url, normal, plain
from ..outputs.modules import modules_in
from ..outputs.named import ties_of
from ..outputs.planned import plan_weights, with_recorded_base
from ..plan.sources import Source
from ..saves.target import found_run, settled
from .adapter_side import adapter_catalog, has_adapter
from .quantized_side import unquantized

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..opening.open import FilesRead
    from ..opening.opened import Opened
    from ..options import Path

HEAD_FILES = ("colbert_linear", "sparse_linear")
"""Heads of BGE-M3, which FlagEmbedding keeps in files of their own, with `.pt` behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two models."""

    path: str
    """As it was given."""
    what: str
    tensors: Mapping[str, Source]
    """By name, second names of tied weights included; of a quantized model, the weights that its numbers stand for."""
    schemes: Mapping[str, str]
    """Names of these weights -> how they are quantized, in words."""
    stored: frozenset[str]
    """Names of tensors in a format of quantization that is not known: their elements are no weights."""
    roles: Mapping[str, str]
    """By name, what a checkpoint says of it; empty for a model directory."""
    ties: Mapping[str, str]
    """Second names of tied weights -> the first."""
    is_tied: bool
    """Whether config.json says that the head is the embedding."""
    merged_into: str | None
    """The directory of the model that an adapter is merged into here; None where none is."""
    directory: str | None
    """Of a model or an adapter that a program can load as it is; None for a checkpoint."""
    hides_names: bool
    """Whether equal names say nothing about the files: an adapter's were read as those of a run, or a checkpoint has no
    values of some parameters."""
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What is at a path, before it is known what it is compared with."""

    path: str
    directory: str
    opened: Opened | None
    """The checkpoint, or an adapter as one; None for a model directory."""
    is_adapter: bool
    """Whether it has PEFT adapters."""
    what: str
    manifest: Mapping[str, Any]
    """Our own record of how a model directory was made; empty if it has none."""


def find_side(path: Path, *, files_read: FilesRead = None) -> Found:
    """What is at a path, or at the model of the hub with this id. `files_read(n, total)` is called as files of a
    checkpoint are read.

    Raises NotACheckpoint or BadOption if there is nothing, else what `open_checkpoint` raises.
    """
    given = plain(os.fspath(path))
    directory = normal(given) if is_url(given) else given
    if not exists(given) and is_hub_id(given):
        directory = in_cache(given, None) or resolved(given)
    if not is_directory(directory):
        why = "this is a file, not a directory" if exists(directory) else "there is no such directory"
        raise NotACheckpoint(
            why, expected="a checkpoint, a model directory, an adapter or a hub id", address=(given or repr(given),)
        )
    has_manifest = exists(os.path.join(directory, MANIFEST_NAME))
    if not has_manifest and (is_checkpoint(directory) or found_run([directory]) is not None):
        return _checkpoint(given, directory, files_read)
    manifest = _manifest(directory)
    if has_adapter(directory):
        opened = of_catalog(adapter_catalog(directory))
        return Found(path=given, directory=directory, opened=opened, is_adapter=True, what="adapter", manifest=manifest)
    return Found(
        path=given, directory=directory, opened=None, is_adapter=False, what="model directory", manifest=manifest
    )


def _checkpoint(given: str, directory: str, files_read: FilesRead) -> Found:
    roots, options = settled(directory, InspectOptions(files_read=files_read), newest_of_several=True)
    opened = of_catalog(open_catalog(roots, options.tag, files_read=files_read))
    origin = opened.catalog.origin
    what = f"{origin.tag}, ZeRO stage {origin.stage}, {counted(origin.world_size, 'rank')}"
    if not is_same_file(origin.root, directory) and not is_same_file(os.path.join(origin.root, origin.tag), directory):
        what = f"{os.path.basename(origin.root)}, {what}"  # a run directory
    try:
        is_adapter = find_adapters(opened.catalog, lora=None, chosen=()) is not None
    except ZeroConsolidateError:
        is_adapter = is_file(os.path.join(origin.root, ADAPTER_CONFIG))
    return Found(path=given, directory=directory, opened=opened, is_adapter=is_adapter, what=what, manifest={})


def _manifest(directory: str) -> Mapping[str, Any]:
    try:
        return read_manifest(directory) or {}
    except ZeroConsolidateError:
        return {}  # `verify` says what is wrong with it


def read_side(found: Found, other: Found, *, base: str | None) -> Side:
    """Its tensors, as they are comparable with the `other` ones: adapters with adapters, else merged models.

    Raises what `consolidate` raises for adapters and their base, and DamagedFile for a file that cannot be read.
    """
    if found.opened is None:
        tensors = {name: Source.of_model(name, tensor) for name, tensor in _weights(found.directory).items()}
        read = unquantized(tensors, found.directory, found.path)
        what = f"{found.what}, {read.what}" if read.what else found.what
        return Side(
            path=found.path, what=what, tensors=_in_order(read.tensors), schemes=read.schemes, stored=read.stored,
            roles={}, ties={}, notes=read.notes,
            is_tied=_is_tied(found.directory), merged_into=None, directory=found.directory, hides_names=False,
        )  # fmt: skip
    recorded = other.manifest.get("options") or {}
    options = Options.from_manifest(recorded, tag=None, base=base)
    options = replace(options, include=(), exclude=(), exclude_frozen=False, allow_missing=True)
    options = replace(options, quantize=None, quantize_skip=())  # the other one is compared as what it stands for
    what = found.what
    if found.is_adapter:
        lora = options.lora if recorded.get("lora") in ("adapter", "keep", "merge") else None
        is_plain = other.is_adapter and base is None
        options = replace(options, lora=lora or ("adapter" if is_plain else "merge"))
        options = with_recorded_base(found.opened, options)
        what += f", merged into {options.base}" if options.lora == "merge" and options.base is not None else ""
        what += ", merged" if options.lora == "merge" and options.base is None else ""
    tensors, notes = _planned(found, found.opened, options)
    # What is computed has an adapter in it.
    roles = {name: source.role if source.recipe.is_copied else "trainable" for name, source in tensors.items()}
    is_merged = options.lora == "merge"
    root = found.opened.catalog.origin.root
    is_others = found.is_adapter and found.opened.catalog.origin.writer == "PEFT" and not found.manifest
    unsaved = {} if options.base is not None else found.opened.catalog.unsaved
    if unsaved:
        (name, why), *_ = unsaved.items()
        notes += (
            f"{found.path}: {counted(len(unsaved), 'parameter')} without values, such as {name}: {why.value}. --base "
            "names the original model, which has them",
        )
    return Side(
        path=found.path, what=what, tensors=_in_order(tensors), schemes={}, stored=frozenset(), roles=roles,
        ties=ties_of(tensors), notes=notes,
        is_tied=_is_tied(root) or (is_merged and _is_tied(options.base_directory)),
        merged_into=options.base_directory if is_merged else None,
        directory=found.directory if is_others else None, hides_names=is_others or bool(unsaved),
    )  # fmt: skip


def _planned(found: Found, opened: Opened, options: Options) -> tuple[dict[str, Source], tuple[str, ...]]:
    """The tensors that `consolidate` would write, by folder and name; by their names in the checkpoint if it would
    refuse to write them."""
    notes: tuple[str, ...] = ()
    try:
        weights = plan_weights(opened, options, modules_in(opened.catalog.origin.root), every_name=True)
    except WrongNames as error:
        notes = (f"{found.path}: compared under its own names: {error.message}",)
        weights = plan_weights(opened, replace(options, names="stored", rename=None), every_name=True)
    except BadOption as error:
        if found.is_adapter and options.base is None:
            raise BadOption(
                f"the base model of {found.path} is needed, to compare it with a model: {error.message}",
                remedy="name it with --base",
            ) from None
        raise
    of_recipe = {id(source.recipe): source.role for source in weights.named.selection.named.values()}
    of_recipe |= {id(source.recipe): source.role for source in opened.stored.values()}
    tensors = {
        os.path.join(os.path.dirname(file.name), tensor.name): Source(
            name=tensor.name, shape=tensor.shape, recipe=tensor.recipe,
            role=of_recipe.get(id(tensor.recipe), "trainable"),
        )
        for file in weights.plan.files
        for tensor in file.tensors
    }  # fmt: skip
    return tensors | weights.named.heads, notes


def _in_order(tensors: Mapping[str, Source]) -> dict[str, Source]:
    """By name, the numbers of layers as numbers."""
    return {name: tensors[name] for name in natural(list(tensors))}


def _weights(directory: str) -> dict[str, Any]:
    """The located tensors of a model directory: its own, those in folders of its modules, heads in files of their own.

    Raises what `read_weights` raises.
    """
    folders = dict.fromkeys(["", *(module.folder for module in modules_in(directory)), BESIDE_FOLDER])
    found: dict[str, Any] = {}
    missing: NotACheckpoint | None = None
    for folder in folders:
        inside = os.path.join(directory, folder)
        try:
            weights = read_weights(inside) if is_directory(inside) else None
        except NotACheckpoint as error:  # a pooling has none
            missing = missing or error
            continue
        if weights is not None:
            found |= {os.path.join(folder, name): tensor for name, tensor in weights.tensors.items()}
    for head in HEAD_FILES:
        if is_file(os.path.join(directory, f"{head}.pt")):
            found |= {f"{head}.{name}": tensor for name, tensor in read_pickled(directory, f"{head}.pt").items()}
    if not found and missing is not None:
        raise missing
    return found


def _is_tied(directory: str | None) -> bool:
    if directory is None or not has_config(directory):
        return False
    try:
        return read_config(os.path.join(directory, CONFIG)).get("tie_word_embeddings") is True
    except (ZeroConsolidateError, OSError):
        return False
