"""A model directory and texts -> what the model answers, by the library that serves such models.

    python zeroconsolidate/integrations/answer.py DIRECTORY < request.json      (prints JSON)

Run as a process of its own: torch, transformers, sentence-transformers and FlagEmbedding are imported only here.
Nothing from the network is used, and no code that lies in the directory is run.

A request has `texts` (a text, or a pair of query and passage, each), `pooling`, and for a second causal model `at`: the
tokens that the first one found most likely at each position, of which this one says how likely they are.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

MOST_TOKENS = 256
"""Longer texts are cut off."""
LIKELY = 64
"""Of a causal model, the log-probabilities of so many tokens are kept for each position."""


def main(directory: str) -> int:
    """Print the answers to the request on stdin."""
    request = json.load(sys.stdin)
    try:
        print("\n" + json.dumps(answers(directory, request)))  # noqa: T201  (the answer of this process)
    except Exception as error:  # noqa: BLE001  (the library has classes of its own for each failure)
        print("\n" + json.dumps({"error": f"{type(error).__name__}: {error!s:.300}"}))  # noqa: T201
        return 1
    return 0


def answers(directory: str, request: dict[str, Any]) -> dict[str, Any]:
    """`kind`, `library`, and a list with an answer for each text."""
    import torch

    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    texts, pooling = request["texts"], request.get("pooling")
    config = _json(directory, "config.json")
    name = str((config.get("architectures") or [""])[0])
    if _has(directory, "modules.json") and pooling is None and _installed("sentence_transformers"):
        return _by_sentence_transformers(directory, texts)
    if _has(directory, "colbert_linear.pt") and pooling is None and _installed("FlagEmbedding"):
        return _by_flagembedding(directory, texts)
    if name.endswith("ForSequenceClassification"):
        return _classified(directory, texts)
    if name.endswith(("ForCausalLM", "LMHeadModel")):
        return _continued(directory, texts, request.get("at"))
    return _embedded(directory, texts, pooling or _pooling(directory, config))


def _installed(package: str) -> bool:
    from importlib.util import find_spec

    return find_spec(package) is not None


def _has(directory: str, name: str) -> bool:
    return os.path.isfile(os.path.join(directory, name))


def _json(directory: str, name: str) -> dict[str, Any]:
    if not _has(directory, name):
        return {}
    with open(os.path.join(directory, name), encoding="utf-8") as file:
        value = json.load(file)
    return value if isinstance(value, dict) else {}


def _first(text: Any) -> str:
    return text if isinstance(text, str) else " ".join(text)


def _by_sentence_transformers(directory: str, texts: list[Any]) -> dict[str, Any]:
    """Embedding, or scores of a cross-encoder, as that library computes them."""
    import sentence_transformers

    model = sentence_transformers.SentenceTransformer(directory, device="cpu", trust_remote_code=False)
    made = model.encode([_first(text) for text in texts], convert_to_numpy=True, show_progress_bar=False)
    return {
        "kind": "embeddings",
        "library": f"sentence-transformers {sentence_transformers.__version__}",
        "answers": [[float(x) for x in vector] for vector in made],
    }


def _by_flagembedding(directory: str, texts: list[Any]) -> dict[str, Any]:
    """The dense vectors of BGE-M3."""
    from FlagEmbedding import BGEM3FlagModel

    model = BGEM3FlagModel(directory, use_fp16=False, devices="cpu")
    made = model.encode([_first(text) for text in texts], max_length=MOST_TOKENS)["dense_vecs"]
    return {
        "kind": "embeddings",
        "library": "FlagEmbedding",
        "answers": [[float(x) for x in vector] for vector in made],
    }


def _loaded(directory: str, cls: Any) -> tuple[Any, Any, str]:
    """Model, tokenizer, library. Raises ValueError if parameters would be random."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    model, info = cls.from_pretrained(directory, output_loading_info=True, trust_remote_code=False)
    missing = [name for name in info["missing_keys"] if "pooler" not in name and "position_ids" not in name]
    if missing:
        raise ValueError(f"{len(missing)} parameters are not in the files and would be random, such as {missing[0]}")
    return model.float().eval(), tokenizer, f"transformers {transformers.__version__}"


def _tokens(tokenizer: Any, model: Any, text: Any) -> Any:
    positions = int(getattr(model.config, "max_position_embeddings", 0) or MOST_TOKENS)
    pair = (text,) if isinstance(text, str) else tuple(text)
    made = tokenizer(*pair, return_tensors="pt", truncation=True, max_length=max(min(MOST_TOKENS, positions - 2), 4))
    return {name: value for name, value in made.items() if name != "token_type_ids" or _has_types(model)}


def _has_types(model: Any) -> bool:
    return bool(getattr(model.config, "type_vocab_size", 0))


def _classified(directory: str, texts: list[Any]) -> dict[str, Any]:
    """Logits: one is the score of a reranker, several are classes."""
    import transformers

    model, tokenizer, library = _loaded(directory, transformers.AutoModelForSequenceClassification)
    made = [model(**_tokens(tokenizer, model, text)).logits[0].double().tolist() for text in texts]
    return {"kind": "scores" if made and len(made[0]) == 1 else "classes", "library": library, "answers": made}


def _pooling(directory: str, config: dict[str, Any]) -> str:
    """What sentence-transformers' configuration says, else what FlagEmbedding does: the first token of an encoder, the
    last of a decoder."""
    pooling = _json(os.path.join(directory, "1_Pooling"), "config.json")
    if pooling.get("pooling_mode_mean_tokens"):
        return "mean"
    if pooling.get("pooling_mode_lasttoken"):
        return "last"
    has_types = bool(config.get("type_vocab_size"))
    return "cls" if has_types or pooling.get("pooling_mode_cls_token") else "last"


def _embedded(directory: str, texts: list[Any], pooling: str) -> dict[str, Any]:
    """Hidden states of the last layer, pooled, of length 1."""
    import torch
    import transformers

    model, tokenizer, library = _loaded(directory, transformers.AutoModel)
    made = []
    for text in texts:
        states = model(**_tokens(tokenizer, model, _first(text))).last_hidden_state[0].double()
        vector = {"cls": states[0], "last": states[-1], "mean": states.mean(0)}[pooling]
        made.append(torch.nn.functional.normalize(vector, dim=0).tolist())
    return {"kind": "embeddings", "library": f"{library}, {pooling} pooling", "answers": made}


def _continued(directory: str, texts: list[Any], at: list[Any] | None) -> dict[str, Any]:
    """For each position the likeliest next tokens with their log-probabilities, and that of the token that follows.

    `at`: the tokens to answer for, by text and position; the likeliest one is given too.
    """
    import torch
    import transformers

    model, tokenizer, library = _loaded(directory, transformers.AutoModelForCausalLM)
    made = []
    for number, text in enumerate(texts):
        tokens = _tokens(tokenizer, model, _first(text))
        logs = torch.log_softmax(model(**tokens).logits[0].double(), -1)
        ids = tokens["input_ids"][0]
        likely = logs.topk(min(LIKELY, logs.shape[-1])).indices
        if at is not None:
            asked = torch.tensor(at[number])
            if asked.shape[0] != logs.shape[0] or int(asked.max()) >= logs.shape[-1]:
                raise ValueError("the tokenizers of both models cut a text into different tokens")
            likely_here = asked
        else:
            likely_here = likely
        made.append(
            {
                "tokens": ids.tolist(),
                "next": likely[:, 0].tolist(),
                "likely": likely_here.tolist(),
                "logs": logs.gather(-1, likely_here).tolist(),
                "own": logs[:-1].gather(-1, ids[1:, None])[:, 0].tolist(),
            }
        )
    return {"kind": "continuations", "library": library, "answers": made}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
