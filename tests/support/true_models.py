"""Models with the weights that the live engine held, built without the package, by transformers' and PEFT's classes.

What such a model answers in this process is what a converted one must answer, to the last bit: both are computed by the
same kernels, whichever those of this machine are.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import torch
import transformers

if TYPE_CHECKING:
    from collections.abc import Mapping
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
HEADS = ("colbert_linear", "sparse_linear")


def filled(loader: Any, config: Any, weights: Mapping[str, torch.Tensor], dtype: torch.dtype) -> torch.nn.Module:
    """A new model with these weights, cast to `dtype`; of tied ones, one is enough."""
    model: torch.nn.Module = loader.from_config(config, dtype=dtype)
    missing, unexpected = model.load_state_dict({name: w.to(dtype) for name, w in weights.items()}, strict=False)
    assert set(missing) <= set(model.all_tied_weights_keys)
    assert not unexpected
    return model


def trained(case: ModelCase, dtype: torch.dtype) -> torch.nn.ModuleDict:
    """The fully trained model of a case, its masters cast to `dtype`, and BGE-M3's heads if they were trained too.

    It is configured as the original model is.
    """
    labels = {"num_labels": 1} if case.recipe == "reranker" else {}
    config = transformers.AutoConfig.from_pretrained(case.base, **labels)
    masters = case.expected
    own = {name: tensor for name, tensor in masters.items() if not name.startswith(HEADS)}
    if case.recipe != "causal":
        own = {name.removeprefix("model."): tensor for name, tensor in own.items()}
    states = {
        name: {part: masters[f"{name}.{part}"] for part in ("weight", "bias")}
        for name in HEADS
        if f"{name}.weight" in masters
    }
    return torch.nn.ModuleDict(
        {"model": filled(LOADERS[case.recipe], config, own, dtype)}
        | {name: head(state, dtype) for name, state in states.items()}
    )


def head(state: dict[str, torch.Tensor], dtype: torch.dtype) -> torch.nn.Linear:
    """One of BGE-M3's heads, as FlagEmbedding makes it."""
    made = torch.nn.Linear(*reversed(state["weight"].shape), dtype=dtype)
    made.load_state_dict(state)
    return made


def adapted(case: ModelCase) -> torch.nn.ModuleDict:
    """The original model with the trained adapters of a case beside it, in float32."""
    import peft

    base = LOADERS[case.recipe].from_pretrained(case.base, dtype=torch.float32)
    config = peft.PeftConfig.from_pretrained(case.checkpoint)
    config.inference_mode = False
    # As PEFT is about to name it, which it would say in a warning.
    config.base_model_name_or_path = str(case.base)
    model = peft.get_peft_model(base, config)
    # What was frozen is in some checkpoints too, rounded; the original model has it as it was.
    masters = {
        (name if case.recipe == "causal" else name.removeprefix("model.")): tensor
        for name, tensor in case.expected.items()
        if tensor.dtype == torch.float32
    }
    own = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert own.keys() == masters.keys()
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(masters[name])
    return torch.nn.ModuleDict({"model": model})


def merged(case: ModelCase) -> torch.nn.ModuleDict:
    """The original model with the trained adapters of a case merged into it by PEFT, in float32."""
    return torch.nn.ModuleDict({"model": adapted(case)["model"].merge_and_unload()})


def save(truth: torch.nn.ModuleDict, folder: Path, case: ModelCase) -> None:
    """Write the model, its heads and the trainer's tokenizer to `folder`, as a trainer without DeepSpeed would."""
    truth["model"].save_pretrained(folder)
    for name in HEADS:
        if name in truth:
            torch.save(truth[name].state_dict(), folder / f"{name}.pt")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(case.checkpoint / name, folder)
