"""What a loaded model answers to the probe of a case: the same computations as FlagEmbedding's, in plain torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import transformers
from torch.nn import functional

if TYPE_CHECKING:
    from pathlib import Path

    from model_cases import ModelCase


@torch.no_grad()
def answers(case: ModelCase, loaded: torch.nn.ModuleDict, directory: Path) -> dict[str, torch.Tensor]:
    """The outputs, by the names they have in `outputs.safetensors`.

    loaded: `model`, and BGE-M3's heads, if any, by their names.
    directory: has the tokenizer.
    """
    probe = case.outputs
    inputs = {"input_ids": probe["input_ids"], "attention_mask": probe["attention_mask"]}
    loaded.eval()
    for parameter in loaded.parameters():
        # Out of the mapped file into memory of torch's own alignment: kernels add in another order where a vector
        # begins at an odd address, and one unit in the last place is a difference here.
        parameter.data = parameter.data.clone()
    model = loaded["model"]
    if case.recipe == "causal":
        return {"logits": model(**inputs, use_cache=False).logits}
    if case.recipe == "llm_reranker":
        # The logit of `Yes` after the prompt (FlagEmbedding `reranker/decoder_only/base/modeling.py`). transformers 4
        # does not know the tokenizer class that 5 names, so that AutoTokenizer is of no use.
        tokens = transformers.PreTrainedTokenizerFast(tokenizer_file=str(directory / "tokenizer.json"))
        yes = tokens("Yes", add_special_tokens=False)["input_ids"][-1]
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
    colbert = loaded["colbert_linear"](hidden[:, 1:]) * inputs["attention_mask"][:, 1:][:, :, None].float()
    return {
        "dense": vectors,
        "colbert": functional.normalize(colbert, dim=-1),
        "token_weights": torch.relu(loaded["sparse_linear"](hidden)),
    }
