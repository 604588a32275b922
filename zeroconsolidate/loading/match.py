"""Names of tensors that there are, names that a module has -> which goes where.

A checkpoint has the names of the module that was trained, wrapper and all; the module at hand may be that one without
the wrapper, or one of the hub. So the change of prefix is looked for that brings most names to those of the module,
in the way that `consolidate` looks for one (`naming/decision.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..archive.phrases import listed
from ..errors import WrongNames
from ..naming.decision import best_mapping
from ..naming.expectation import Expectation, compare

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from ..plan.sources import Source
    from .target import Slot

_MODULE = "the module"


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Which tensor goes into which slot."""

    pairs: tuple[tuple[Slot, tuple[str, ...]], ...]
    """With the names that the tensor has where it is from: several if the module ties what may be two there."""
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]
    """What is of another shape, in words."""
    rivals: tuple[str, ...]
    change: str
    """How names were changed, in words; empty if they were not."""

    @property
    def wrong(self) -> int:
        """How many names have no counterpart."""
        return len(self.missing) + len(self.unexpected) + len(self.mismatched)


def match(
    slots: Sequence[Slot],
    tensors: Mapping[str, Source],
    ties: Mapping[str, str],
    spelled: Mapping[str, str],
    *,
    exact: bool,
) -> Match:
    """Pair slots with tensors.

    `spelled`: how a name of the module is to be spelled for that, where it differs; `exact`: whether names must be
    equal, and no prefix is looked for.
    """

    def names(slot: Slot) -> list[str]:
        return [spelled.get(place.name, place.name) for place in slot.places]

    expectation = Expectation(
        origin=_MODULE,
        shapes={name: slot.shape for slot in slots for name in names(slot)},
        ties={alias: kept for slot in slots for kept, *others in [names(slot)] for alias in others},
        exact=True,
    )
    shapes = {name: source.shape for name, source in tensors.items()}
    known = {alias: owner for alias, owner in ties.items() if alias in shapes and owner in shapes}
    naming = (
        compare({name: name for name in shapes}, shapes, known, expectation, "")
        if exact
        else best_mapping(shapes, known, expectation)
    )
    mapping = {**naming.mapping, **naming.heads}
    there: dict[str, str] = {}
    for name, new in mapping.items():
        there.setdefault(new, name)
    pairs = [(slot, tuple(there[name] for name in names(slot) if name in there)) for slot in slots]
    unplaced = {*naming.unexpected, *naming.heads.values()}
    wanted = {new: slot.shape for slot in slots for new in names(slot)}
    return Match(
        pairs=tuple((slot, found) for slot, found in pairs if found),
        missing=tuple(slot.name for slot, found in pairs if not found),
        unexpected=tuple(name for name, new in mapping.items() if new in unplaced),
        mismatched=tuple(
            f"{there[new]} has shape {list(shapes[there[new]])}, in the module {list(wanted[new])}"
            for new in naming.mismatched
        ),
        rivals=naming.rivals,
        change=naming.change,
    )


def refuse(found: Match, *, strict: bool) -> None:
    """Refuse a match that would leave something out, or with `strict` False only what cannot be. Raises WrongNames."""
    if found.rivals:
        raise WrongNames(
            f"the checkpoint has {len(found.rivals)} models with the names of the module, under "
            f"{' and '.join(map(repr, found.rivals))}",
            consequence="nothing says which of them to load",
        )
    if found.mismatched:
        raise WrongNames(
            f"the module has other shapes than the checkpoint: {listed(found.mismatched, 3)}",
            missing=found.missing,
            unexpected=found.unexpected,
        )
    if strict and (found.missing or found.unexpected):
        parts = [
            f"{len(names)} {what}: {listed(names, 4)}"
            for names, what in (
                (found.missing, "missing in the checkpoint"),
                (found.unexpected, "unknown to the module"),
            )
            if names
        ]
        raise WrongNames(
            f"the names do not fit the module: {'; '.join(parts)}",
            missing=found.missing,
            unexpected=found.unexpected,
            remedy="load what fits, and look at the report: strict=False",
        )


def spellings(model: torch.nn.Module, slots: Sequence[Slot]) -> list[dict[str, str]]:
    """Ways to spell the names of the module: as they are, and for a PEFT model as the model without adapters has them,
    and as the file of its adapter has them."""
    adapters = getattr(model, "peft_config", None)
    if not isinstance(adapters, dict):
        return [{}]
    names = [place.name for slot in slots for place in slot.places]
    return [{}, {name: _bare(name, adapters) for name in names}, {name: _in_file(name, adapters) for name in names}]


def _bare(name: str, adapters: Mapping[str, object]) -> str:
    """Without PEFT's wrapping: `base_model.model.q_proj.base_layer.weight` as `q_proj.weight`."""
    for adapter in adapters:
        name = name.replace(f".modules_to_save.{adapter}.", ".")
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")


def _in_file(name: str, adapters: Mapping[str, object]) -> str:
    """As `adapter_model.safetensors` has it: `q_proj.lora_A.default.weight` as `q_proj.lora_A.weight`."""
    for adapter in adapters:
        name = (
            name.replace(f".modules_to_save.{adapter}.", ".").replace(f".{adapter}.", ".").removesuffix(f".{adapter}")
        )
    return name
