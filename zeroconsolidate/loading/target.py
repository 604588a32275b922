"""A module -> the tensors that are to be loaded into it, each with all of its names.

Wrappers are taken out of the names, as they are out of those of a checkpoint: `module.` of DistributedDataParallel,
`_orig_mod.` of torch.compile, and so on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..catalog.plain import plain
from ..errors import UnsupportedLayout

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch

_HOLDERS = ("DistributedDataParallel", "DataParallel")
"""Wrappers whose one child is called `module`, which no model calls a module that is all of it."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a module keeps a tensor."""

    module: torch.nn.Module
    attribute: str
    name: str
    """In the model, without wrappers."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A tensor of a model. A tied one has several places."""

    tensor: torch.Tensor
    places: tuple[Place, ...]
    is_parameter: bool

    @property
    def name(self) -> str:
        """The first of its names."""
        return self.places[0].name

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole tensor, also where ranks hold parts of it."""
        return tuple(self.tensor.shape)


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """The model without data-parallel holders around it."""
    while type(model).__name__ in _HOLDERS:
        model = model.get_submodule("module")
    return model


def slots_of(model: torch.nn.Module) -> list[Slot]:
    """The tensors of the model's state dict, in its order. Raises UnsupportedLayout for those that others hold."""
    tensors: dict[int, torch.Tensor] = {}
    places: dict[int, list[Place]] = {}
    parameters: set[int] = set()
    for prefix, module in model.named_modules(remove_duplicate=False):
        for attribute, tensor, is_parameter in _own(module):
            name = plain(f"{prefix}.{attribute}" if prefix else attribute)
            _refuse_held_elsewhere(tensor, name)
            tensors[id(tensor)] = tensor
            places.setdefault(id(tensor), []).append(Place(module, attribute, name))
            if is_parameter:
                parameters.add(id(tensor))
    return [Slot(tensor, tuple(places[key]), key in parameters) for key, tensor in tensors.items()]


def left_on_meta(model: torch.nn.Module, loaded: Sequence[Slot]) -> list[str]:
    """Names of tensors without values that are not among `loaded`: also of buffers that are in no state dict."""
    done = {id(slot.tensor) for slot in loaded}
    every = [*model.named_parameters(), *model.named_buffers()]
    return [plain(name) for name, tensor in every if tensor.is_meta and id(tensor) not in done]


def _own(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor, bool]]:
    """The tensors that a module itself has in a state dict."""
    for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
        yield name, parameter, True
    transient = module._non_persistent_buffers_set  # noqa: SLF001  (torch has no other way to ask)
    for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
        if name not in transient:
            yield name, buffer, False


def _refuse_held_elsewhere(tensor: torch.Tensor, name: str) -> None:
    """Tensors whose values are not in them, but in buffers of an engine."""
    if hasattr(tensor, "ds_id"):
        raise UnsupportedLayout(
            "the parameters are partitioned by ZeRO stage 3",
            consequence=f"{name} is in buffers of DeepSpeed's",
            remedy=("give the engine to load_into_engine", "load into the module before deepspeed.initialize"),
        )
    if type(tensor).__name__ == "FlatParameter":
        raise UnsupportedLayout(
            "the parameters are flattened by FullyShardedDataParallel",
            consequence=f"{name} is many parameters in one",
            remedy="load inside of FullyShardedDataParallel.summon_full_params(model), or before wrapping",
        )
