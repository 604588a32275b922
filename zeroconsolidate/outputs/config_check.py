"""config.json and the shapes of weights -> where they contradict each other."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from ..archive.model_config import MAX_CONFIG_BYTES, parse, short_int
from ..archive.phrases import counted
from ..archive.places import exists
from ..archive.regular import read_small
from ..errors import DamagedFile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..archive.located import LocatedTensor
    from ..catalog.facts import Shape

_EMBEDDINGS = ("embed_tokens.weight", "word_embeddings.weight", "wte.weight", "embed_in.weight", "shared.weight")
_WIDTHS = ("hidden_size", "d_model", "n_embd", "embedding_size", "word_embed_proj_dim", "dim", "emb_dim")
MAX_LAYERS = 1 << 16
"""No model has so many; a config with a larger number is not checked layer by layer."""
_LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks|block)\.([0-9]+)\.")


class Problem(NamedTuple):
    """What in config.json contradicts the weights."""

    text: str
    rule: str | None = None
    """The `FIELD=VALUE` that would agree with them."""
    is_lack: bool = False
    """Whether the problem is missing weights."""


def config_problems(directory: str, tensors: Mapping[str, LocatedTensor]) -> tuple[list[Problem], list[str]]:
    """(problems, checks done). A model without config.json, or one too unusual to judge, has neither."""
    path = os.path.join(directory, "config.json")
    if not exists(path):
        return [], []
    try:
        config = parse(read_small(path, MAX_CONFIG_BYTES), parse_int=short_int)
    except DamagedFile as error:
        return [Problem(f"config.json: {error.sentence}")], []
    if not isinstance(config, dict):
        return [Problem("config.json: expected an object")], []
    text = config.get("text_config") if isinstance(config.get("text_config"), dict) else config
    problems: list[Problem] = []
    vocabulary, found = vocabulary_problems(config, {name: tensor.shape for name, tensor in tensors.items()})
    problems += vocabulary
    checks = [
        *_dtype(config, tensors, problems),
        *found,
        *_layers(text, tensors, problems),
    ]
    return problems, [f"config.json: {', '.join(checks)}"] if checks else []


def _dtype(config: Mapping[str, Any], tensors: Mapping[str, LocatedTensor], problems: list[Problem]) -> list[str]:
    stated = config.get("dtype", config.get("torch_dtype"))
    written = {tensor.dtype.torch_name for tensor in tensors.values() if tensor.dtype.is_floating}
    if not isinstance(stated, str) or not written:
        return []
    if stated.removeprefix("torch.") not in written:
        text = f"config.json: 'dtype' is {stated!r}, but the weights are {', '.join(sorted(written))}"
        problems.append(Problem(text))
    return ["dtype"]


def vocabulary_problems(config: Any, shapes: Mapping[str, Shape]) -> tuple[list[Problem], list[str]]:
    """(problems, checks done): the embedding of tokens, if there is one of a known name, against what config says.

    More rows than the vocabulary has are no problem, as some programs pad it, and no check: others would not load them.
    """
    inner = "text_config." if isinstance(config, dict) and "text_config" in config else ""
    config = config.get("text_config", config) if isinstance(config, dict) else {}
    found = [
        (name, shape)
        for name, shape in shapes.items()
        if len(shape) == 2 and any(name == e or name.endswith(f".{e}") for e in _EMBEDDINGS)
    ]
    if len(found) != 1 or not isinstance(config, dict):
        return [], []
    problems = []
    name, (rows, width) = found[0]
    vocabulary = config.get("vocab_size")
    widths = [config[key] for key in _WIDTHS if isinstance(config.get(key), int)]
    if isinstance(vocabulary, int) and rows < vocabulary:
        text = f"config.json: 'vocab_size' is {vocabulary}, but {name} has {rows} rows"
        problems.append(Problem(text, f"{inner}vocab_size={rows}"))
    if widths and width not in widths:
        problems.append(Problem(f"config.json: the width is {widths[0]}, but {name} has {width} columns"))
    done = {"vocabulary": isinstance(vocabulary, int) and rows <= vocabulary, "width": bool(widths)}
    checked = [what for what, is_done in done.items() if is_done]
    return problems, [" and ".join(checked)] if checked else []


def _layers(config: Any, tensors: Mapping[str, LocatedTensor], problems: list[Problem]) -> list[str]:
    stated = config.get("num_hidden_layers", config.get("n_layer"))
    if not isinstance(stated, int):
        return []
    towers: dict[str, set[int]] = {}
    for name in tensors:
        match = _LAYER.search(name)
        if match:
            towers.setdefault(name[: match.start(1)], set()).add(int(match[1]))
    if len(towers) != 1:
        return []  # encoder and decoder, or vision and text: `num_hidden_layers` speaks of one of them
    (layers,) = towers.values()
    if len(layers) != stated or max(layers) >= stated:
        text = (
            f"config.json: 'num_hidden_layers' is {stated}, but the weights have {counted(len(layers), 'layer')} "
            f"({min(layers)} to {max(layers)})"
        )
        problems.append(Problem(text, is_lack=layers < set(range(min(stated, MAX_LAYERS)))))
    return ["number of layers"]
