"""A planned model or adapter -> its model card: `README.md` as the hub reads it, with what is known and nothing else.

The head is YAML (huggingface_hub's `ModelCardData`); for an adapter it has the keys that PEFT's own card has
(`peft/peft_model.py`, `create_or_update_model_card`). Language, license and data are not known here, so they are not
in it. Like the manifest, the card says nothing of time, place or machine.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .._version import __version__
from ..archive.printable import printable

if TYPE_CHECKING:
    from ..catalog.facts import Origin
    from ..opening.rescue_report import RescueReport

CARD = "README.md"

_TASKS = {
    "ForCausalLM": "text-generation",
    "ForMaskedLM": "fill-mask",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMultipleChoice": "multiple-choice",
    "ForImageClassification": "image-classification",
    "AutoModel": "feature-extraction",
    "BGEM3FlagModel": "feature-extraction",
    "SentenceTransformer": "sentence-similarity",
    "SparseEncoder": "feature-extraction",
    "CrossEncoder": "text-ranking",
}
"""Ends of class names -> the pipeline of the hub that a model of such a class is for."""
_PEFT_TASKS = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
}
"""PEFT's tasks (`peft/utils/peft_types.py`) -> the class of transformers that loads the base model."""
_MODULES = {
    "BGEM3FlagModel": ("FlagEmbedding", "transformers"),
    "SentenceTransformer": ("sentence_transformers", "sentence-transformers"),
    "CrossEncoder": ("sentence_transformers", "sentence-transformers"),
    "SparseEncoder": ("sentence_transformers", "sentence-transformers"),
    "MultiVectorEncoder": ("sentence_transformers", "sentence-transformers"),
    "PeftModel": ("peft", "peft"),
}
"""Class -> the module it is imported from, and the library's name on the hub. All others are transformers'."""
_PLAIN = re.compile(r"([a-z_]+:)*[A-Za-z_][A-Za-z0-9_.-]*/[A-Za-z0-9_.-]+|[a-z]+(-[a-z]+)*")
"""Ids of the hub, also in a tag, and our own words: texts that YAML takes for themselves."""
_WORDS_OF_YAML = ("null", "true", "false", "yes", "no", "on", "off", "y", "n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """An adapter, as its configuration describes it."""

    kinds: str
    """In words: `default (LORA)`."""
    types: tuple[str, ...]
    """`peft_type` of each, such as `LORA`."""
    task: str | None
    """`task_type`."""
    merged: bool
    """Whether it is merged into the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """What the card says."""

    origin: Origin
    dtype: str
    """Of the weights, as torch spells it."""
    load_line: str
    """The expression that loads the model from the folder `.`."""
    is_diffusers: bool
    architecture: str | None
    """The class that config.json names."""
    base: str | None
    """The hub id of the original model, where it is known."""
    base_directory: str | None
    """The last name of its directory, where one was given and it has no hub id."""
    adapter: Adapter | None
    rescue: RescueReport | None
    members: tuple[Origin, ...]
    """Of a mean of several saves: all of them."""
    flags: str
    """The options, as they are typed."""
    only_in_python: tuple[str, ...]
    """Options that cannot be typed."""


def card(facts: CardFacts) -> bytes:
    """The text of the card.

    Returns UTF-8.
    """
    return "\n".join((*_head(facts), *_body(facts))).encode()


def _class_of(facts: CardFacts) -> str:
    return re.split(r"[.(]", facts.load_line)[0]


def _library(facts: CardFacts) -> tuple[str, str]:
    if facts.is_diffusers:
        return "diffusers", "diffusers"
    return _MODULES.get(_class_of(facts), ("transformers", "transformers"))


def _pipeline(facts: CardFacts) -> str | None:
    class_name = _class_of(facts)
    if class_name == "PeftModel":
        class_name = _PEFT_TASKS.get((facts.adapter and facts.adapter.task) or "", "")
    return next((task for end, task in _TASKS.items() if class_name.endswith(end)), None)


def _tags(facts: CardFacts) -> list[str]:
    tags = ["deepspeed", "zeroconsolidate"]
    if _class_of(facts) == "BGEM3FlagModel":
        tags.append("flagembedding")
    if facts.adapter is not None and not facts.adapter.merged:
        tags += [kind.lower() for kind in dict.fromkeys(facts.adapter.types)]
        tags += ["transformers", *([f"base_model:adapter:{facts.base}"] if facts.base else [])]
    return sorted(tags)


def _head(facts: CardFacts) -> list[str]:
    single = {"base_model": facts.base, "library_name": _library(facts)[1], "pipeline_tag": _pipeline(facts)}
    return [
        "---",
        *(f"{key}: {_yaml(value)}" for key, value in single.items() if value),
        "tags:",
        *(f"- {_yaml(tag)}" for tag in _tags(facts)),
        "---",
        "",
    ]


def _yaml(text: str) -> str:
    """A text as YAML reads it back: as it is where it can be nothing else, in quotes otherwise."""
    if _PLAIN.fullmatch(text) and text not in _WORDS_OF_YAML:
        return text
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in text) + '"'


def _body(facts: CardFacts) -> list[str]:
    origin, adapter = facts.origin, facts.adapter
    base = f"`{facts.base or facts.base_directory}`" if facts.base or facts.base_directory else None
    if adapter is not None and not adapter.merged:
        kinds = " and ".join("LoRA" if kind == "LORA" else kind for kind in dict.fromkeys(adapter.types))
        title = f"{kinds} adapter, trained with DeepSpeed"
    else:
        title = f"{facts.architecture or 'Model'}, trained with DeepSpeed"
    saved = f"ZeRO stage {origin.stage}, {origin.world_size} rank{'s' if origin.world_size != 1 else ''}"
    step = "" if origin.step is None else f" of step {origin.step}"
    release = f", DeepSpeed {printable(origin.ds_version)}" if origin.ds_version else ""
    lines = [
        f"# {title}",
        "",
        f"Weights{step} of a training with DeepSpeed: the save `{printable(origin.tag)}` ({saved}{release}), in "
        f"{facts.dtype}.",
    ]
    if facts.members:
        steps = ", ".join(f"`{printable(each.tag)}`" for each in facts.members)
        lines[-1] = f"The mean of {len(facts.members)} saves of a training with DeepSpeed, in {facts.dtype}: {steps}."
    if adapter is not None and adapter.merged:
        lines += ["", f"Merged into it: the adapter {adapter.kinds}{f', trained on {base}' if base else ''}."]
    elif base:
        lines += ["", f"The original model: {base}."]
    if facts.rescue is not None:
        exact = facts.rescue.percent("checkpoint")
        lines += [
            "",
            f"**The save was not complete.** {exact:.1f} % of the values are those that were trained; "
            "`rescue-report.json` says where each of the others came from.",
        ]
    checkpoints = "CHECKPOINT" + (" [CHECKPOINT ...]" if facts.members and "--last" not in facts.flags else "")
    lines += [
        "",
        "What it was trained on and for, its languages, its limits and its license are not known to the program that "
        "wrote this card.",
        "",
        "## Load it",
        "",
        "```python",
        *_code(facts),
        "```",
        "",
        "`.` is this folder; the name of this repository on the hub works in its place.",
        "",
        "## How it was made",
        "",
        "```sh",
        " ".join(filter(None, (f"zeroconsolidate convert {checkpoints} OUTPUT", facts.flags))),
        "```",
        "",
        *([f"In Python, with functions for {' and '.join(facts.only_in_python)}.", ""] if facts.only_in_python else []),
        f"With zeroconsolidate {__version__}. `zeroconsolidate.json` lists all files and tensors, and `zeroconsolidate "
        "verify OUTPUT` checks them.",
        "",
    ]
    return lines


def _code(facts: CardFacts) -> list[str]:
    """Python that loads the model."""
    class_name, (module, _) = _class_of(facts), _library(facts)
    if class_name != "PeftModel":
        return [f"from {module} import {class_name}", "", f"model = {facts.load_line}"]
    base_class = _PEFT_TASKS.get((facts.adapter and facts.adapter.task) or "", "AutoModel")
    return [
        f"from {module} import {class_name}",
        f"from transformers import {base_class}",
        "",
        f"base_model = {base_class}.from_pretrained({json.dumps(facts.base or 'BASE_MODEL', ensure_ascii=False)})",
        f"model = {facts.load_line}",
    ]
