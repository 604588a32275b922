"""Whether a base model is the one that adapters were trained on: everything that can show it is checked.

Shapes do not tell: models of one size have factors of one shape, and a merge into the wrong one goes through. Nor do
names of directories, which people choose. What tells are names on the hub, the kind of model, its ties, its tokenizer,
and the base's own values where the save has them (those are compared when the merge is made).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..archive.json_file import parse_object
from ..archive.model_config import MAX_CONFIG_BYTES, parse, short_int
from ..archive.model_files import ADAPTER_CONFIG, CONFIG
from ..archive.regular import read_small
from ..errors import ZeroConsolidateError
from ..integrations.hub import cached_as, is_hub_id

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .peft_config import PeftConfig

MAX_TOKENIZER_BYTES = 1 << 28
"""A larger tokenizer.json is not read. Vocabularies of a quarter million entries take some 20 MB."""
_KINDS = (
    "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "intermediate_size", "hidden_act",
)  # fmt: skip
"""Fields of a config that a run does not change."""
_QUANTIZED = re.compile(r"-(?:(?:unsloth-)?bnb-[48]bit|[48]bit|int[48]|fp8|gptq|awq)(?:-.*)?$", re.IGNORECASE)
"""What the name of a quantized copy's repository adds to the name of the model it was made from."""
_OUTPUT_EMBEDDINGS = ("lm_head", "embed_out", "lm_head.decoder", "cls.predictions.decoder")
"""Modules that `tie_word_embeddings` ties to the input embedding."""
_CLASS_END = re.compile(r"(?:For[A-Z]\w*|LMHeadModel|DoubleHeadsModel|Model)$")
_ANY_NAME = {"", ".", "base", "base_model", "model", "models", "checkpoint", "output", "out", "final", "merged"}
"""Names of directories that say nothing about what is in them."""
_FEW_TOKENS = 0.5
"""A tokenizer that shares fewer of its entries is a different one: a run adds or reserves only a few tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a checkpoint knows of the base that its adapters were trained on."""

    directory: str
    configs: Mapping[str, PeftConfig]
    ties: Mapping[str, str]
    """alias -> name, by the names of the model."""
    is_quantized: bool
    """Whether the save shows that the base was held in 4 or 8 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What speaks for and against a base."""

    contradictions: tuple[str, ...]
    confirmed_by: tuple[str, ...]
    records: tuple[str, ...]
    """The bases that the checkpoint names."""
    quantized: str | None
    """What shows that the base was quantized in training; None if nothing does."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What users of the merged model should know."""
        found = [
            f"merged into a base that it was not trained on (--base-differs): {text}" for text in self.contradictions
        ]
        if self.quantized is not None:
            found.append(
                f"the adapter was trained on quantized weights ({self.quantized}), and is merged into the original "
                "ones: the model's answers differ a little from those in training"
            )
        return tuple(found)

    def doubts(self, base: str) -> tuple[str, ...]:
        """A warning if nothing but its name speaks about `base`, and the name is not the recorded one."""
        if self.contradictions or self.confirmed_by or not self.records or _directory(base) in _ANY_NAME:
            return ()
        return (
            f"the checkpoint names the base {', '.join(self.records)}, and --base is {base}: nothing else tells "
            "whether they are the same model",
        )

    def untold(self, base: str) -> tuple[str, ...]:
        """A note that it is not known whether `base` is right, if nothing speaks for or against it."""
        if self.contradictions or self.confirmed_by or self.doubts(base):
            return ()
        named = f"the checkpoint names {', '.join(self.records)}" if self.records else "the checkpoint names none"
        return (f"base: it is not known whether the adapter was trained on {base}; {named}",)


@dataclass(frozen=True, slots=True)
class _Record:
    """A file that names the base."""

    file: str
    base: str
    revision: str | None


def base_contradictions(run: Run, base: str) -> Agreement:
    """Check everything that can show whether the directory `base` is what the adapters of `run` were trained on."""
    records = _records(run)
    ours, theirs = _config(run.directory), _config(base)
    against, confirmed = list[str](), list[str]()
    for record in records:
        text = _other_name(record, base)
        if text is not None:
            against.append(text)
        elif _is_same_name(record, base):
            confirmed.append(f"{record.file} names it")
    against += [*_other_kind(run.configs, theirs), *_other_config(ours, theirs), *_other_ties(run.ties, theirs)]
    against += _other_tokenizer(run.directory, base)
    copies = [record for record in records if _QUANTIZED.search(record.base)]
    quantized = f"{copies[0].file} names {copies[0].base}" if copies else None
    if run.is_quantized:
        quantized = "the save has quantized weights"
    return Agreement(
        contradictions=tuple(dict.fromkeys(against)),
        confirmed_by=tuple(dict.fromkeys(confirmed)),
        records=tuple(dict.fromkeys(record.base for record in records)),
        quantized=quantized,
    )


# --- what the checkpoint says ----------------------------------------------------------------------------------------


def _records(run: Run) -> list[_Record]:
    found = []
    for config in run.configs.values():
        revision = config.content.get("revision")
        if config.base:
            found.append(_Record(ADAPTER_CONFIG, config.base, revision if isinstance(revision, str) else None))
    card = _card(run.directory)
    if card:
        found.append(_Record("README.md", card, None))
    named = _config(run.directory).get("_name_or_path")
    if isinstance(named, str) and named:
        found.append(_Record(CONFIG, named, None))
    return found


def _card(directory: str) -> str | None:
    """The base that a model card names in its head, if it is one."""
    try:
        text = read_small(os.path.join(directory, "README.md"), MAX_CONFIG_BYTES).decode("utf-8", "replace")
    except (OSError, ZeroConsolidateError):
        return None
    head = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    found = re.findall(r"^base_model:[ \t]*(?:\n[ \t]*- *)?(\S+)[ \t]*$", head[1] if head else "", re.MULTILINE)
    return found[0].strip("'\"") if len(found) == 1 else None


def _config(directory: str) -> Mapping[str, Any]:
    try:
        config = parse(read_small(os.path.join(directory, CONFIG), MAX_CONFIG_BYTES), parse_int=short_int)
    except (OSError, ZeroConsolidateError):
        return {}  # said when the config is written
    return config if isinstance(config, dict) else {}


# --- names -----------------------------------------------------------------------------------------------------------


def _plain(name: str) -> str:
    """The last part of a name, without what is added for quantized copies."""
    return _QUANTIZED.sub("", name.rstrip("/").rpartition("/")[2].partition("@")[0]).lower()


def _directory(base: str) -> str:
    return os.path.basename(os.path.abspath(base)).lower()


def _is_same_name(record: _Record, base: str) -> bool:
    cached = cached_as(base)
    if cached is not None:
        return is_hub_id(record.base) and _plain(record.base) == _plain(cached.name)
    if os.path.isdir(record.base):
        return os.path.samefile(record.base, base)
    here = _directory(base)
    return _plain(record.base) == here and here not in _ANY_NAME


def _other_name(record: _Record, base: str) -> str | None:
    """Another model of the hub, or another revision of it. A directory may be called anything."""
    cached = cached_as(base)
    if cached is None or not is_hub_id(record.base) or os.path.isdir(record.base):
        return None
    if _plain(record.base) != _plain(cached.name):
        return f"{record.file} names {record.base}, and --base is {cached.name}"
    if record.revision is None or record.base.lower() != cached.name.lower():
        return None
    commit = cached.commit_of(record.revision)
    if commit is None or commit == cached.commit:
        return None
    return f"{record.file} names the revision {record.revision}, and --base is {cached.commit}"


# --- kind of model ---------------------------------------------------------------------------------------------------


def _other_kind(configs: Mapping[str, PeftConfig], base: Mapping[str, Any]) -> Iterator[str]:
    """The class that PEFT writes down where it knows no task (`auto_mapping`), against the base's config."""
    kinds = {_spelled(value) for value in _stated(base, "model_type")}
    architectures = base.get("architectures")
    stems = {_stem(name) for name in architectures} if isinstance(architectures, list) else set()
    for config in configs.values():
        mapping = config.content.get("auto_mapping")
        if not isinstance(mapping, dict) or not kinds:
            continue
        name, library = str(mapping.get("base_model_class")), str(mapping.get("parent_library"))
        parts = library.split(".")
        # Neither alone tells: some folders of transformers hold models of several types.
        if parts[:2] == ["transformers", "models"] and len(parts) > 2:
            folders = {parts[2], f"{parts[2]}_text"}
            if folders.isdisjoint(kinds) and _stem(name) not in stems:
                yield f"{ADAPTER_CONFIG} says {name}, and {CONFIG} of --base {' or '.join(sorted(kinds))}"


def _stem(name: object) -> str:
    return _CLASS_END.sub("", str(name)).lower()


def _spelled(value: object) -> str:
    return str(value).replace("-", "_")


def _stated(config: Mapping[str, Any], key: str) -> list[object]:
    """What a config says of `key`, for the whole and for its language model."""
    text = config.get("text_config")
    held = [config, text] if isinstance(text, dict) else [config]
    return [each[key] for each in held if each.get(key) is not None]


def _other_config(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[str]:
    """A config beside the checkpoint is the run's own."""
    for key in _KINDS:
        here, there = ours.get(key), theirs.get(key)
        if here is not None and there is not None and here != there:
            yield f"{key} is {here} in {CONFIG} of the checkpoint, and {there} in that of --base"
            return


def _other_ties(ties: Mapping[str, str], theirs: Mapping[str, Any]) -> Iterator[str]:
    """A run whose head is its embedding, and a base whose config says that they are two."""
    if True in _stated(theirs, "tie_word_embeddings") or False not in _stated(theirs, "tie_word_embeddings"):
        return
    for alias, name in ties.items():
        if any(one == end or one.endswith(f".{end}") for one in (_module(alias), _module(name)) for end in
               _OUTPUT_EMBEDDINGS):  # fmt: skip
            yield f"{alias} is {name} in the checkpoint (tied), and {CONFIG} of --base says that they are two"
            return


def _module(name: str) -> str:
    return name.rpartition(".")[0]


# --- tokenizer -------------------------------------------------------------------------------------------------------


def _other_tokenizer(ours: str, theirs: str) -> Iterator[str]:
    """Adapters see tokens by their numbers: where most numbers mean something else, it was another vocabulary."""
    here, there = (_text(os.path.join(directory, "tokenizer.json")) for directory in (ours, theirs))
    if here is None or there is None or here == there:
        return
    try:
        one, other = _tokens(parse_object(here, "tokenizer")), _tokens(parse_object(there, "tokenizer"))
    except ZeroConsolidateError:
        return
    fewer, more = sorted((one, other), key=len)
    same = sum(more.get(token) == number for token, number in fewer.items())
    if fewer and same < len(fewer) * _FEW_TOKENS:
        yield (
            f"tokenizer.json of the checkpoint is of another vocabulary than that of --base ({same} of {len(fewer)} "
            "tokens have the same number)"
        )


def _text(path: str) -> bytes | None:
    try:
        return read_small(path, MAX_TOKENIZER_BYTES)
    except (OSError, ZeroConsolidateError):
        return None


def _tokens(content: Mapping[str, Any]) -> dict[str, object]:
    model = content.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        return vocabulary
    if isinstance(vocabulary, list):  # Unigram: [token, score] by number
        return {str(entry[0]): n for n, entry in enumerate(vocabulary) if isinstance(entry, list) and entry}
    return {}
