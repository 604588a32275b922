"""A pooling and the size of an embedding -> the files that sentence-transformers needs.

Without them SentenceTransformer takes mean pooling and no normalisation, which for a model trained on the CLS token
gives other vectors, and says nothing. The formats are sentence-transformers' own
(`sentence_transformers/models/Pooling.py`, `Normalize.py`, `Transformer.py`).
"""

from __future__ import annotations

import json

_POOLING = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens", "last": "pooling_mode_lasttoken"}
_MODES = (
    "pooling_mode_cls_token",
    "pooling_mode_mean_tokens",
    "pooling_mode_max_tokens",
    "pooling_mode_mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens",
    "pooling_mode_lasttoken",
)


def files(pooling: str, *, hidden_size: int, max_length: int | None) -> dict[str, bytes]:
    """Output name -> content. `pooling`: `cls`, `mean` or `last`; `hidden_size`: elements of an embedding.

    `max_length` in tokens: longer texts are cut off; None leaves it to the tokenizer.
    """
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    return {
        "modules.json": _json(
            [
                {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
                for i, (path, kind) in enumerate(modules)
            ]
        ),
        "1_Pooling/config.json": _json(
            {"word_embedding_dimension": hidden_size}
            | {mode: mode == _POOLING[pooling] for mode in _MODES}
            | {"include_prompt": True}
        ),
        "sentence_bert_config.json": _json({"max_seq_length": max_length, "do_lower_case": False}),
    }


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
