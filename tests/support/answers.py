"""What a loaded model answers to the probe of a case: the same computations as FlagEmbedding's, in plain torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import transformers
from torch.nn import functional

if TYPE_CHECKING:
    from pathlib import Path

    from model_cases import ModelCase

LOADERS = {
    "causal": transformers.AutoModelForCausalLM,
    "m3": transformers.AutoModel,
    "embedder": transformers.AutoModel,
    "reranker": transformers.AutoModelForSequenceClassification,
    "llm_embedder": transformers.AutoModel,
    "llm_reranker": transformers.AutoModelForCausalLM,
}


def heads_of(directory: Path, dtype: torch.dtype) -> dict[str, torch.nn.Linear]:
    """BGE-M3's heads, loaded as FlagEmbedding loads them."""
    found = {}
    for name in ("colbert_linear", "sparse_linear"):
        state = torch.load(directory / f"{name}.pt", weights_only=True)
        head = torch.nn.Linear(*reversed(state["weight"].shape), dtype=dtype)
        head.load_state_dict(state)
        found[name] = head
    return found


@torch.no_grad()
def answers(case: ModelCase, model: torch.nn.Module, directory: Path) -> dict[str, torch.Tensor]:
    """The outputs of `model`, loaded from `directory`, by the names they have in `outputs.safetensors`."""
    probe = case.outputs
    inputs = {"input_ids": probe["input_ids"], "attention_mask": probe["attention_mask"]}
    model.eval()
    for parameter in model.parameters():
        # Out of the mapped file into memory of torch's own alignment: kernels add in another order where a vector
        # begins at an odd address, and one unit in the last place is a difference here.
        parameter.data = parameter.data.clone()
    if case.recipe == "causal":
        return {"logits": model(**inputs, use_cache=False).logits}
    if case.recipe == "llm_reranker":
        # The logit of `Yes` after the prompt (FlagEmbedding `reranker/decoder_only/base/modeling.py`). transformers 4
        # does not know the tokenizer class that 5 names, so that AutoTokenizer is of no use.
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(directory / "tokenizer.json"))
        yes = tokenizer("Yes", add_special_tokens=False)["input_ids"][-1]
        return {"scores": model(**inputs, use_cache=False).logits[:, -1, yes]}
    if case.recipe == "reranker":
        return {"scores": model(**inputs).logits}
    hidden = model(**inputs).last_hidden_state
    if case.recipe == "llm_embedder":
        last = inputs["attention_mask"].cumsum(1).argmax(1)  # of left or right padding alike
        return {"embeddings": functional.normalize(hidden[torch.arange(len(hidden)), last], dim=-1)}
    vectors = functional.normalize(hidden[:, 0], dim=-1)
    if case.recipe == "embedder":
        return {"embeddings": vectors}
    if "live.colbert" not in probe:
        return {"dense": vectors}
    heads = heads_of(directory, hidden.dtype)
    colbert = heads["colbert_linear"](hidden[:, 1:]) * inputs["attention_mask"][:, 1:][:, :, None].float()
    return {
        "dense": vectors,
        "colbert": functional.normalize(colbert, dim=-1),
        "token_weights": torch.relu(heads["sparse_linear"](hidden)),
    }


def assert_equal_answers(case: ModelCase, found: dict[str, torch.Tensor], kind: str) -> None:
    """`kind`: `live` (the training dtype), `float32` (the masters) or `merged` (those, adapters merged)."""
    expected = {name.removeprefix(f"{kind}."): t for name, t in case.outputs.items() if name.startswith(f"{kind}.")}
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        difference = (found[name].reshape(tensor.shape).double() - tensor.double()).abs().max().item()
        assert difference == 0.0, (name, difference)
