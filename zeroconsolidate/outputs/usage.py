"""An output -> the line of Python that loads it, the last line of the report."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING

from ..archive.json_file import read_json
from ..archive.model_config import is_diffusers, parse
from ..archive.model_files import CONFIG
from ..errors import DamagedFile, ZeroConsolidateError
from ..options.urls import is_url

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ENCODER_CONFIG = "config_sentence_transformers.json"
_TASKS = (
    "ForCausalLM", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering",
    "ForMultipleChoice", "ForImageClassification",
)  # fmt: skip
"""Ends of class names for which transformers has an `AutoModel…` of the same end."""
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
"""Names that are printed for people to run come from files that others made: nothing but letters and digits."""


def load_model(
    directory: str, *, weights: Sequence[str], side_files: Mapping[str, bytes], copies: Mapping[str, str]
) -> str:
    """The line that loads a model directory.

    `weights`: names of its files of weights. `side_files`: name -> content of those made, `copies`: name -> path of
    those copied.
    """
    names, path = {*side_files, *copies}, _quoted(directory)
    if "modules.json" in side_files:
        return f"SentenceTransformer({path})"  # asked for
    if {"colbert_linear.pt", "sparse_linear.pt"} <= names:
        return f"BGEM3FlagModel({path})"
    if "modules.json" in names:
        return f"{_encoder(copies.get(ENCODER_CONFIG))}({path})"
    if CONFIG not in side_files:
        return load_tensors(directory, weights)
    class_name, is_remote = _class_of(side_files[CONFIG])
    return f"{class_name}.from_pretrained({path}{', trust_remote_code=True' if is_remote else ''})"


def _encoder(path: str | None) -> str:
    """The class of sentence-transformers that saved the model; it says so since release 5."""
    try:
        config = {} if path is None else read_json(path)
    except ZeroConsolidateError:
        config = {}
    named = config.get("model_type")
    return named if named in ("CrossEncoder", "SparseEncoder", "MultiVectorEncoder") else "SentenceTransformer"


def load_adapter(directory: str, weights: Sequence[str]) -> str:
    """The line that puts an adapter on its base model; of several adapters, the first."""
    folder = os.path.dirname(weights[0])
    return f"PeftModel.from_pretrained(base_model, {_quoted(os.path.join(directory, folder) if folder else directory)})"


def load_tensors(directory: str, weights: Sequence[str]) -> str:
    """The line that loads tensors as they are, for what no class is known to load."""
    if len(weights) == 1:
        return f"safetensors.torch.load_file({_quoted(os.path.join(directory, weights[0]))})"
    return f"accelerate.load_checkpoint_in_model(model, {_quoted(directory)})"


def _class_of(config_text: bytes) -> tuple[str, bool]:
    """(the class of transformers or diffusers, whether its code is the model's own)."""
    try:
        config = parse(config_text)
    except DamagedFile:
        config = None
    if not isinstance(config, dict):
        return "AutoModel", False
    if is_diffusers(config):
        own = config["_class_name"]
        return (own if _PLAIN.fullmatch(own) else "ModelMixin"), False
    auto_map = config.get("auto_map")
    own = [key for key in auto_map if key.startswith("AutoModel")] if isinstance(auto_map, dict) else []
    if own and _PLAIN.fullmatch(own[-1]):
        # The last is the most special: AutoModel stands first by convention.
        return own[-1], True
    architectures = config.get("architectures")
    name = architectures[0] if isinstance(architectures, list) and architectures else ""
    if not isinstance(name, str) or not _PLAIN.fullmatch(name):
        return "AutoModel", False
    for task in _TASKS:
        if name.endswith(task):
            return f"AutoModel{task}", False
    if name.endswith("LMHeadModel"):
        return "AutoModelForCausalLM", False
    return ("AutoModel" if name.endswith("Model") else name), False


def _quoted(path: str) -> str:
    """A path as Python spells it. Loaders take directories: of an output in a store, the name that a copy has."""
    if is_url(path):
        path = path.removeprefix("hf://") if re.fullmatch(r"hf://[^/]+/[^/]+", path) else path.rpartition("/")[2]
    return json.dumps(path, ensure_ascii=False)
