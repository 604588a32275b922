"""A directory -> the content of its config.json, which is not trusted."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from . import json_file
from .model_files import CONFIG
from .places import is_file
from .regular import read_small

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_CONFIG_BYTES = 1 << 24
"""A longer config.json is refused."""


def has_config(directory: str) -> bool:
    """Whether there is a config.json."""
    return is_file(os.path.join(directory, CONFIG))


def is_bare(config: object) -> bool:
    """Whether a config is a model's without a head, such as `XLMRobertaModel`, which embedders are.

    >>> is_bare({"architectures": ["XLMRobertaModel"]}), is_bare({"architectures": ["LlamaForCausalLM"]})
    (True, False)
    """
    names = config.get("architectures") if isinstance(config, dict) else None
    return isinstance(names, list) and bool(names) and all(str(name).endswith("Model") for name in names)


def is_diffusers(config: object) -> bool:
    """Whether a config is a diffusers model's: it names a class, and no model type of transformers.

    >>> is_diffusers({"_class_name": "UNet2DModel"}), is_diffusers({"model_type": "llama"})
    (True, False)
    """
    return isinstance(config, dict) and isinstance(config.get("_class_name"), str) and "model_type" not in config


def short_int(text: str) -> int | str:
    """For `parse_int`: the number, unless it has more digits than any size."""
    return int(text) if len(text) < 20 else text


def parse(text: bytes, *, parse_int: Callable[[str], object] = str) -> Any:
    """The value of a config.json, integers as text by default: for long ones Python takes quadratic time.

    Raises DamagedFile if it is not JSON or nested too deep.
    """
    return json_file.parse(text, CONFIG, parse_int=parse_int)


def read_config(path: str) -> Any:
    """The value in the file, as `parse` gives it. Raises DamagedFile, and UnsafePath if it is not a regular file."""
    return parse(read_small(path, MAX_CONFIG_BYTES))
