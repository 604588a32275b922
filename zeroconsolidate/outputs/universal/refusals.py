"""A checkpoint -> an error if a universal checkpoint cannot be made of it: never one that resumes wrongly."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ...archive.phrases import listed
from ...errors import UnsupportedLayout
from ...plan.states import MASTERS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from ...catalog.facts import Catalog
    from ...catalog.training import Training


def refuse_layout(catalog: Catalog) -> Training:
    """What the optimizer says besides tensors, of a checkpoint that can be written. Raises UnsupportedLayout."""
    origin, training = catalog.origin, catalog.training
    at_hand = (origin.tag,)
    if origin.wrapper == "universal checkpoint":
        raise UnsupportedLayout("this is a universal checkpoint already", address=at_hand)
    if training is None:
        raise UnsupportedLayout("no file says anything of an optimizer", address=at_hand)
    shared = [name for part in catalog.parts for name in _held_twice(part.masters) if name not in catalog.listed]
    if shared and origin.degrees.pp > 1:
        raise UnsupportedLayout(
            f"{listed(shared, 4)}: the layer is tied over pipeline stages, and no file says what ranks call it",
            consequence="DeepSpeed would not find it when it resumes",
            address=at_hand,
        )
    if catalog.unplaced:
        raise UnsupportedLayout(
            f"the optimizer's state {listed(list(map(repr, catalog.unplaced)))} is not laid out like the parameters",
            consequence="DeepSpeed could not divide it over other ranks",
            address=at_hand,
        )
    if training.unread:
        raise UnsupportedLayout(
            f"{listed(list(training.unread), 4)}: the value is not plain, and would be lost", address=at_hand
        )
    if training.differs:
        raise UnsupportedLayout(
            f"the param groups of model-parallel ranks differ in {listed(list(map(repr, training.differs)), 4)}",
            consequence="DeepSpeed has one place for the settings of all ranks",
            address=at_hand,
        )
    if origin.ds_version is None:
        raise UnsupportedLayout(
            "no file says which DeepSpeed saved the checkpoint, which DeepSpeed asks when it resumes", address=at_hand
        )
    return training


MOST_NAME_BYTES = 255
"""A longer name of a folder no common file system takes (`NAME_MAX` in `linux/limits.h`)."""


def refuse_names(names: Iterable[str], states: Collection[str]) -> None:
    """Parameters must have names that a folder can have, and states names that nothing else has there. Raises
    UnsupportedLayout."""
    for name in names:
        size_bytes = len(name.encode())
        if size_bytes > MOST_NAME_BYTES:
            raise UnsupportedLayout(
                f"the name of the parameter {name} is too long: a universal checkpoint has a folder of that name",
                expected=f"at most {MOST_NAME_BYTES} bytes",
                found=size_bytes,
                remedy="keep moments beside the model: zeroconsolidate convert CHECKPOINT OUTPUT --optimizer",
            )
    taken = next((name for name in states if name in (MASTERS, "step")), None)
    if taken is not None:
        raise UnsupportedLayout(
            f"the optimizer keeps a state {taken!r}, and a universal checkpoint has another file of that name"
        )


def _held_twice(masters: Iterable[Iterable[str]]) -> list[str]:
    """Names that several stages hold."""
    found = Counter(name for of_stage in masters for name in of_stage)
    return [name for name, count in found.items() if count > 1]


def refuse_lost(catalog: Catalog, planned: Collection[str]) -> None:
    """Every state that a file has must be `planned`. Raises UnsupportedLayout."""
    lost = [name for name in catalog.origin.optimizer_state if name not in planned]
    if lost:
        raise UnsupportedLayout(
            f"nothing says of which parameters the optimizer's state {listed(list(map(repr, lost)))} is",
            consequence="it would be lost",
            address=(catalog.origin.tag,),
        )
