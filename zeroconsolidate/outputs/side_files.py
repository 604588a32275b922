"""Planned weights -> the other files of the output: copied, edited or made, with notes on what was changed."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from ..archive.model_config import MAX_CONFIG_BYTES, is_bare, parse, short_int
from ..archive.model_files import CONFIG
from ..archive.places import is_file, size_bytes
from ..archive.regular import read_small
from ..archive.weights import read_pickled
from ..errors import BadOption, DamagedFile, Disagreement, StoreFailed, ZeroConsolidateError, at
from ..naming.config_fields import with_fields
from ..naming.expectation import HEADS
from . import heads as head_files
from . import sentence_transformers
from .config import (
    as_trained,
    readable_before_5,
    tokenizer_readable_before_5,
    under_older_names,
    with_dtype,
    with_member,
    with_vocabulary,
    without_ties,
    without_truncation,
)
from .config_check import vocabulary_problems
from .output import SideFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ..dtypes import DType
    from ..options import Options
    from ..run.inputs import Inputs
    from .assets import Assets
    from .planned import PlannedWeights

T = TypeVar("T")
Edit: TypeAlias = "Callable[[bytes], tuple[bytes, T]]"
"""From a file's text to the edited one, and what was changed: nothing of it is false."""
HEAD_FILES = tuple(f"{head}pt" for head in HEADS)
"""`colbert_linear.pt` and `sparse_linear.pt`."""
MAX_TOKENIZER_BYTES = 1 << 28
"""A larger tokenizer.json is copied unedited. Vocabularies of a quarter million entries take some 20 MB."""


def side_files(planned: PlannedWeights, assets: Assets, options: Options, inputs: Inputs) -> SideFiles:
    """Read, edit and make the files beside the weights.

    Raises DamagedFile for a config that is not JSON, Disagreement for one with another vocabulary.
    """
    copies, made, notes, warnings = dict(assets.copies), dict[str, bytes](), list[str](), list[str]()
    if planned.plan.index is not None:
        made[planned.plan.index_name] = planned.plan.index
    hidden_size, bare = None, False
    if "config.json" in copies:
        path = copies.pop("config.json")
        with at(path):
            given = with_fields(read_small(path, MAX_CONFIG_BYTES), options.set_config)
            text = with_dtype(given, planned.dtype.torch_name)
            if planned.adapted is not None and planned.adapted.untied:
                text = without_ties(text)
            if planned.adapted is not None and planned.adapted.trained_as is not None:
                trained = planned.adapted.trained_as
                text, said = as_trained(text, trained.class_name, trained.labels)
                if said:
                    notes.append(f"config.json: {' and '.join(said)}, as trained")
            if planned.adapted is not None and planned.adapted.rows is not None:
                text = with_vocabulary(text, planned.adapted.rows)
            if planned.named.class_name:
                text, _ = as_trained(text, planned.named.class_name, None)
                notes.append(
                    f"config.json: architectures added: {planned.named.class_name} is the class of these names"
                )
            for name, value in (planned.model.fields if planned.model is not None else {}).items():
                text = with_member(text.decode("utf-8"), name, value).encode()
                notes.append(f"config.json: {name} set")
            for name, value in under_older_names(parse(text)).items():
                text = with_member(text.decode("utf-8"), name, value).encode()
                notes.append(f"config.json: {name} added, where older releases of transformers read it")
            made["config.json"], changed = readable_before_5(text)
            config = parse(text)
            warnings += _wrong_vocabulary(text, planned, insisted=options.allow_missing or options.names == "stored")
        if changed:
            notes.append("config.json: rope_theta added, where transformers 4 reads it")
        if options.set_config:
            notes.append(f"config.json: {', '.join(options.set_config)} (--set-config)")
        hidden_size = config.get("hidden_size") if isinstance(config, dict) else None
        bare = is_bare(config)
    folders = dict.fromkeys(os.path.dirname(file.name) for file in planned.plan.files)
    for folder in filter(None, folders):  # modules of their own, with a config each
        _edit(os.path.join(folder, CONFIG), partial(_module_config, planned.dtype), MAX_CONFIG_BYTES, copies, made)
    for_embeddings = planned.named.unwrapped or options.sentence_transformers or any(folders)
    for folder in folders:
        name = os.path.join(folder, "tokenizer.json")
        if for_embeddings and _edit(name, without_truncation, MAX_TOKENIZER_BYTES, copies, made):
            notes.append(f"{name}: truncation and padding of the training run removed")
        name = os.path.join(folder, "tokenizer_config.json")
        changes = _edit(name, tokenizer_readable_before_5, MAX_CONFIG_BYTES, copies, made)
        notes += [f"{name}: {each}" for each in changes or ()]
    if planned.named.heads or bare:
        rebuilt = _heads(planned, inputs)
        if rebuilt:
            notes.append(f"{' and '.join(rebuilt)}: made from the heads in the checkpoint")
        made |= rebuilt
        wanted = [name for name in HEAD_FILES if name not in made]
        if wanted and options.base_directory is not None:
            _base_heads(options.base_directory, wanted, copies, notes)
        lone = [name for name in wanted if name not in copies]
        if rebuilt and lone:
            warnings.append(
                f"{lone[0]} was not found, and without it BGEM3FlagModel uses random heads; name the model that "
                "training started from with --base"
            )
    if options.sentence_transformers is not None:
        if not str(hidden_size).isdigit():
            raise BadOption("sentence-transformers needs the size of an embedding, but config.json has no hidden_size")
        made |= sentence_transformers.files(
            options.sentence_transformers, hidden_size=int(str(hidden_size)), max_length=None
        )
    for name in (*made, *(file.name for file in planned.plan.files)):
        copies.pop(name, None)
    return SideFiles(copies=copies, made=made, notes=tuple(notes), warnings=tuple(warnings))


def _module_config(dtype: DType, text: bytes) -> tuple[bytes, bool]:
    """The config of a module in a folder of its own, as that of a model is edited."""
    edited, _ = readable_before_5(with_dtype(text, dtype.torch_name))
    return edited, edited != text


def _wrong_vocabulary(text: bytes, planned: PlannedWeights, *, insisted: bool) -> list[str]:
    """Compare the vocabulary in config.json with the rows that will be written: problems, as warnings if `insisted`.

    Raises Disagreement for problems otherwise.
    """
    shapes = {tensor.name: tensor.shape for tensor in planned.plan.tensors()}
    problems, _ = vocabulary_problems(parse(text, parse_int=short_int), shapes)
    if problems and not insisted:
        raise Disagreement(
            problems[0].text.removeprefix("config.json: "),
            consequence="loaders would refuse these weights",
            remedy=(
                f"set the field with --set-config {problems[0].rule}" if problems[0].rule else "correct config.json",
                "write them anyway with --allow-missing",
            ),
        )
    return [problem.text for problem in problems]


def _edit(name: str, edit: Edit[T], limit_bytes: int, copies: Mapping[str, str], made: dict[str, bytes]) -> T | None:
    """Make an edited copy of a text file; what was changed. What is larger is copied as it is."""
    path = copies.get(name)
    if path is None or size_bytes(path) > limit_bytes:
        return None
    with at(path):
        try:
            text, changed = edit(read_small(path, limit_bytes))
        except UnicodeDecodeError as error:
            raise DamagedFile(f"{name} is not UTF-8 text: {error}") from None
    if changed:
        made[name] = text
    return changed


def _heads(planned: PlannedWeights, inputs: Inputs) -> dict[str, bytes]:
    """BGE-M3's heads, small enough to be held."""
    from ..run.cast import as_dtype
    from ..run.elements import read_all

    found = {}
    for name, source in planned.named.heads.items():
        with at(name):
            written = as_dtype(read_all(source.recipe, inputs), source.recipe.dtype, planned.dtype)
        found[name] = (source.shape, written, planned.dtype)
    return head_files.files(found)


def _base_heads(base: str, names: Sequence[str], copies: dict[str, str], notes: list[str]) -> None:
    """Heads that were not trained are the base model's; FlagEmbedding loads both or takes random ones."""
    paths = {name: os.path.join(base, name) for name in names}
    if not all(is_file(path) for path in paths.values()):
        return
    for name in names:
        try:
            tensors = read_pickled(base, name)
        except StoreFailed:
            raise
        except ZeroConsolidateError as error:
            notes.append(f"{name} of the base model was not copied, because it cannot be read: {error}")
            return
        if set(tensors) != {"weight", "bias"} or any(0 in tensor.shape for tensor in tensors.values()):
            # Such is what a run under ZeRO-3 leaves behind: a base that is a checkpoint itself.
            notes.append(f"{name} of the base model was not copied, because it is empty")
            return
    copies |= paths
    notes.append(f"{' and '.join(paths)}: copied from the base model, because the run did not train them")
