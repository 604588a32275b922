"""What training code puts around a model, and around some of its layers."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

ATTRIBUTES = ("model", "module", "_forward_module", "encoder", "net", "pretrained_model")
"""Wrappers that only hold the model."""
INNER = ("compile", "checkpoint", "fsdp", "module", "parametrize")


class Holder(nn.Module):
    """A module of what it is given, in that order."""

    def __init__(self, **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            setattr(self, name, child)


def width_of(model: nn.Module) -> int:
    config = getattr(model, "config", None)
    found = getattr(config, "hidden_size", None) or getattr(getattr(config, "text_config", None), "hidden_size", None)
    return found or 7


def _frozen(model: nn.Module) -> nn.Module:
    twin = copy.deepcopy(model)
    for parameter in twin.parameters():
        parameter.requires_grad_(False)
    return twin


def _apart(model: nn.Module) -> nn.Module:
    """Another model of the same names, with other values."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)
    return twin


OUTER: dict[str, Callable[[nn.Module], nn.Module]] = {
    **{name: (lambda model, name=name: Holder(**{name: model})) for name in ATTRIBUTES},
    "pair": lambda model: Holder(lm_q=model, lm_p=model),
    "pair_below": lambda model: Holder(query=Holder(model=model), passage=Holder(model=model)),
    "two": lambda model: Holder(lm_q=model, lm_p=_apart(model)),
    "teacher": lambda model: Holder(model=model, teacher=_frozen(model)),
    "teacher_first": lambda model: Holder(teacher=_frozen(model), model=model),
    "projection": lambda model: Holder(model=model, projection=nn.Linear(width_of(model), 4)),
    "value_head": lambda model: Holder(pretrained_model=model, v_head=Holder(summary=nn.Linear(width_of(model), 1))),
    "sentences": lambda model: nn.Sequential(Holder(auto_model=model), nn.Identity()),
    "dense": lambda model: nn.Sequential(
        Holder(auto_model=model), nn.Identity(), Holder(linear=nn.Linear(width_of(model), 8))
    ),
    "embedding_first": lambda model: Holder(embed=embedding(model), model=model),
    "embedding_last": lambda model: Holder(model=model, embed=embedding(model)),
    "m3": lambda model: Holder(
        model=model, colbert_linear=nn.Linear(width_of(model), 8), sparse_linear=nn.Linear(width_of(model), 1)
    ),
    "compiled": lambda model: torch.compile(model),
}
"""By name: what becomes of a model."""


def embedding(model: nn.Module) -> nn.Module:
    found = getattr(model, "get_input_embeddings", lambda: None)()
    return next(iter(model.children())) if found is None else found


def draw_outer(rng: random.Random, *, adapted: bool, encoder: bool) -> tuple[str, ...]:
    """The outermost first; often none."""
    if rng.random() < (0.55 if adapted else 0.4):
        return ()
    kinds = [*ATTRIBUTES, "pair", "pair_below", "two", "teacher", "teacher_first", "projection", "value_head"]
    kinds += ["embedding_first", "embedding_last", "compiled"]
    kinds += ["sentences", "dense", "m3"] if encoder else []
    chosen = rng.choice(kinds)
    if rng.random() < 0.2:
        return (rng.choice([*ATTRIBUTES, "compiled"]), chosen)
    return (chosen,)


def around(model: nn.Module, outer: tuple[str, ...]) -> nn.Module:
    """The model with its wrappers."""
    for name in reversed(outer):
        model = OUTER[name](model)
    return model


def inside(model: nn.Module, kind: str, rng: random.Random) -> None:
    """Wrap some of the model's layers, or some of its linear layers."""
    if not kind:
        return
    if kind == "parametrize":
        linear = [module for module in model.modules() if type(module) is nn.Linear]
        for module in linear[:2]:
            torch.nn.utils.parametrizations.weight_norm(module)
        return
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) > 1]
    if lists:
        layers = max(lists, key=lambda found: sum(1 for _ in found.parameters()))
        chosen = [number for number in range(len(layers)) if rng.random() < 0.8] or [0]
        for number in chosen:
            layers[number] = _wrapped(layers[number], kind)
        return
    name, child = next((name, child) for name, child in model.named_children() if any(True for _ in child.parameters()))
    setattr(model, name, _wrapped(child, kind))


def _wrapped(module: nn.Module, kind: str) -> nn.Module:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    if kind == "compile":
        return torch.compile(module)  # type: ignore[return-value]
    if kind == "checkpoint":
        return checkpoint_wrapper(module)
    return Holder(**{{"fsdp": "_fsdp_wrapped_module", "module": "module"}[kind]: module})
