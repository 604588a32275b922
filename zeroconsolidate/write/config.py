"""Edits config.json where it must change, and nowhere else: every other byte stays."""

from __future__ import annotations

import json
import re
from typing import Any

from ..errors import DamagedFile

MAX_CONFIG_BYTES = 1 << 24
"""A longer config.json is refused."""

_TIED = re.compile(r'("tie_word_embeddings"\s*:\s*)true')
_DTYPE = re.compile(
    r'("(?:torch_)?dtype"\s*:\s*")(float16|bfloat16|float32|float64|half|float|double)(")',
)


def with_dtype(text: bytes, torch_name: str) -> bytes:
    """config.json with each `dtype` (transformers 5) and `torch_dtype` (4) set to `torch_name`.

    Sub-configs (`text_config`, `vision_config`, …) state their own dtype; theirs are set too. A config that
    states none is left alone: loaders then take the dtype of the weights. Raises DamagedFile if it is no JSON.

    >>> with_dtype(b'{"torch_dtype": "bfloat16", "hidden_size": 8}', "float32")
    b'{"torch_dtype": "float32", "hidden_size": 8}'
    """
    parse(text)
    return _DTYPE.sub(rf"\g<1>{torch_name}\g<3>", text.decode("utf-8")).encode()


def without_ties(text: bytes) -> bytes:
    """config.json saying that the output embedding is not the input embedding.

    Without the key, transformers may tie them by default, so it is put in.

    >>> without_ties(b'{"tie_word_embeddings": true, "hidden_size": 8}')
    b'{"tie_word_embeddings": false, "hidden_size": 8}'
    """
    decoded, found = _TIED.subn(r"\g<1>false", text.decode("utf-8"))
    if not found and "tie_word_embeddings" not in parse(text):
        decoded = decoded.replace("{", '{\n  "tie_word_embeddings": false,', 1)
    return decoded.encode()


def parse(text: bytes) -> Any:
    """The value of a JSON file from outside, integers as text: Python takes quadratic time for long ones.

    Raises DamagedFile if it is no JSON or nested too deep.
    """
    try:
        return json.loads(text.decode("utf-8"), parse_int=str)
    except ValueError as error:
        raise DamagedFile(f"config.json is not JSON: {error}") from None
    except RecursionError:
        raise DamagedFile("config.json is nested too deep") from None
