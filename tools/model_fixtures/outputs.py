"""What a model answers: the forward passes whose results a converted checkpoint must reproduce.

The same functions run on the live engine's module and on its float32 copy, and tests can repeat them on what they load.
"""

from __future__ import annotations

from typing import Any

import torch

from .bases import sentences

TEXTS = sentences(4, seed=7)
PAIRS = list(zip(TEXTS[:2], TEXTS[2:], strict=True))


def model_inputs(recipe: str, tokenizer: Any) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask` of the probe texts, as the recipe's inference would batch them."""
    if recipe == "causal":
        # Logits are as wide as the vocabulary: a few tokens of two texts keep the file small.
        texts, length = TEXTS[:2], 12
    else:
        texts, length = (PAIRS if "reranker" in recipe else TEXTS), 64
    batch = tokenizer(texts, padding=True, truncation=True, max_length=length, return_tensors="pt")
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


@torch.no_grad()
def forward(recipe: str, model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The outputs of `model` (a causal LM, or FlagEmbedding's wrapper), by name, detached and contiguous."""
    was_training = model.training
    model.eval()
    if recipe == "causal":
        found = {"logits": model(**inputs, use_cache=False).logits}
    elif recipe == "m3":
        found = _m3(model, inputs)
    else:
        found = {"scores" if "reranker" in recipe else "embeddings": model.encode(inputs)}
    model.train(was_training)
    return {name: value.detach().clone().contiguous() for name, value in found.items()}


def _m3(model: Any, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Dense [B, H]; with the heads trained, token weights [B, T, 1] and ColBERT vectors [B, T-1, H] as well."""
    dense, _, colbert = model._encode(inputs)
    if colbert is None:
        return {"dense": dense}
    hidden = model.model(**inputs, return_dict=True).last_hidden_state
    weights = model._sparse_embedding(hidden, inputs["input_ids"], return_embedding=False)
    return {"dense": dense, "colbert": colbert, "token_weights": weights}


def flag_inference(recipe: str, folder: str, heads: bool) -> dict[str, torch.Tensor]:
    """What FlagEmbedding's public inference classes make of the probe texts, from the model directory `folder`.

    heads: whether the directory has BGE-M3's trained heads (else only dense vectors are compared).
    """
    import FlagEmbedding

    cpu = {"devices": "cpu", "use_fp16": False}
    if recipe == "m3":
        model = aligned(FlagEmbedding.BGEM3FlagModel(folder, **cpu))
        got = model.encode(TEXTS, return_dense=True, return_sparse=heads, return_colbert_vecs=heads)
        found = {"dense": torch.from_numpy(got["dense_vecs"])}
        if heads:
            found["colbert"] = torch.cat([torch.from_numpy(one) for one in got["colbert_vecs"]])
            found["lexical_weights"] = torch.tensor(
                [[float(row), float(token), float(weight)] for row, one in enumerate(got["lexical_weights"])
                 for token, weight in sorted(one.items(), key=lambda item: int(item[0]))], dtype=torch.float64
            )  # fmt: skip
        return found
    if recipe in ("embedder", "llm_embedder"):
        cls = FlagEmbedding.FlagModel if recipe == "embedder" else FlagEmbedding.FlagLLMModel
        return {"embeddings": torch.from_numpy(aligned(cls(folder, **cpu)).encode(TEXTS))}
    cls = FlagEmbedding.FlagReranker if recipe == "reranker" else FlagEmbedding.FlagLLMReranker
    return {"scores": torch.tensor(aligned(cls(folder, **cpu)).compute_score(PAIRS), dtype=torch.float64)}


def aligned(inference: Any) -> Any:
    """`inference` (a module, or something that has one in `model`) with its weights in memory of torch's own alignment.

    Weights loaded from a file lie where they lie there, and kernels add in another order where a vector begins at an
    odd address: the same weights from two files would give answers that differ in their last digits.
    """
    module = inference if isinstance(inference, torch.nn.Module) else inference.model
    for parameter in module.parameters():
        parameter.data = parameter.data.clone()
    return inference


def comparable(found: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """What `flag_inference` found: (numbers that kernels computed, and what must be the same on every machine)."""
    numbers = dict(found)
    if "lexical_weights" not in numbers:
        return numbers, {}
    rows = numbers.pop("lexical_weights")
    return numbers | {"lexical_weights": rows[:, 2]}, {"texts and tokens": rows[:, :2]}
