"""The module of a case, from its description and the original on disk: the same in every process."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from . import adapters, models, wrappers

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from .case import Case


@dataclass(frozen=True, kw_only=True)
class Built:
    """A module that is ready to be trained."""

    module: nn.Module
    """What DeepSpeed is given."""
    model: nn.Module
    """What is in it: of transformers or plain torch, or a PEFT model."""
    trained_class: type[nn.Module]
    names: dict[str, nn.Parameter]
    """Every name of a parameter of `model` as it was before layers were wrapped -> the parameter."""
    optimized: list[nn.Parameter]


def save_base(case: Case, folder: Path) -> None:
    """Write the original model; nothing for plain torch."""
    torch.manual_seed(case.seed)
    base = models.make(case.model, case.base_head, tied=case.tied)
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    if models.MODELS[case.model].config:
        base.save_pretrained(folder)  # type: ignore[operator]


def trained_class(case: Case) -> Any:
    """The class that is trained."""
    import transformers

    return getattr(transformers, models.MODELS[case.model].classes[case.head])


def original(case: Case, base: Path) -> nn.Module:
    """The model that training starts from: the original in the class that is trained, its vocabulary grown."""
    torch.manual_seed(case.seed + 1)
    if not models.MODELS[case.model].config:
        return models.make(case.model, case.head, tied=case.tied)
    labels = {"num_labels": models.LABELS} if case.head in models.LABELLED else {}
    model: nn.Module = trained_class(case).from_pretrained(base, dtype=torch.float32, **labels)
    if case.added_rows:
        model.resize_token_embeddings(models.VOCABULARY + case.added_rows, mean_resizing=False)  # type: ignore[operator]
    return model


def build(case: Case, base: Path, *, inner: bool = True, outer: bool = True) -> Built:
    """The module, or without its wrappers."""
    model = original(case, base)
    kind = type(model)
    if case.untied:
        head = model.get_output_embeddings()  # type: ignore[operator]
        if head is not None:
            head.weight = torch.nn.Parameter(head.weight.detach().clone())
    if case.adapter is not None:
        model = adapters.put_on(model, case.adapter, case.second)
        for name, parameter in model.named_parameters():
            if case.beside and f".{case.beside}." in name and "lora" not in name:
                parameter.requires_grad_(True)
    _freeze(case, model)
    names = dict(model.named_parameters(remove_duplicate=False))
    rng = random.Random(case.seed)
    if inner:
        wrappers.inside(model, case.inner, rng)
    torch.manual_seed(case.seed + 2)
    module = wrappers.around(model, case.outer) if outer else model
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimized = trainable
    if case.unoptimized and len(trainable) > 2:
        optimized = [parameter for number, parameter in enumerate(trainable) if number % 3]
    return Built(module=module, model=model, trained_class=kind, names=names, optimized=optimized)


def _freeze(case: Case, model: nn.Module) -> None:
    """Freeze what the case says; a model always keeps something to train."""
    if case.freeze == "none":
        return
    heads = models.MODELS[case.model].heads.get(case.head, ())
    named = list(model.named_parameters())
    for number, (name, parameter) in enumerate(named):
        is_embedding = "embed" in name or "wte" in name or "shared" in name
        is_head = any(f"{head}." in name for head in heads)
        frozen = {
            "embeddings": is_embedding,
            "layers": number % 2 == 1,
            "body": not is_head and number < len(named) - 1,
        }[case.freeze]
        parameter.requires_grad_(not frozen)
