"""Catalog -> where the elements of every optimizer state are.

A state, such as `exp_avg`, is laid out like the master weights: the same members at the same places of flat groups,
only in other storages. So its plan is made by the same functions, from a catalog with these storages in the places of
the masters.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..archive.located import LocatedTensor
from ..archive.phrases import listed
from ..catalog.agree import are_missing
from ..catalog.experts import local_names
from ..errors import Disagreement, UnsupportedLayout, at
from .sources import placed, replicas

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ..catalog.facts import Catalog, FlatGroup, Part
    from ..catalog.state import MasterState, Step
    from .joins import Replica
    from .sources import Source

MASTERS = "fp32"
"""What DeepSpeed calls the master weights where they stand beside the optimizer's states."""


def states(catalog: Catalog) -> dict[str, dict[str, Source]]:
    """State by state, the masters first: stored name -> source, for every trained parameter.

    Raises MissingFiles if files are, UnsupportedLayout for states that are not laid out like the masters, Disagreement
    where ranks do not have the same states.
    """
    if catalog.missing:
        raise are_missing(list(catalog.missing), catalog.origin.world_size)
    return placed_states(catalog)


def placed_states(catalog: Catalog) -> dict[str, dict[str, Source]]:
    """`states`, also of an incomplete checkpoint: copies of lost elements name LOST as their file."""
    return {name: placed(_of_state(catalog, name)) for name in (MASTERS, *_state_names(catalog))}


def every_state(catalog: Catalog, *, remedy: str | None) -> dict[str, dict[str, Source]]:
    """`states`, of an optimizer of which nothing would be lost. `remedy`: how to do without it.

    Raises UnsupportedLayout as well if the optimizer's state is laid out in a way of its own, or not all understood.
    """
    at_hand, training = (catalog.origin.tag,), catalog.training
    if catalog.unplaced:
        raise UnsupportedLayout(
            f"the optimizer's state {listed(list(map(repr, catalog.unplaced)))} is not laid out like the parameters",
            remedy=remedy,
            address=at_hand,
        )
    found = states(catalog)
    lost = [name for name in catalog.origin.optimizer_state if name not in found]
    if lost:
        raise UnsupportedLayout(
            f"nothing says of which parameters the optimizer's state {listed(list(map(repr, lost)))} is",
            remedy=remedy,
            address=at_hand,
        )
    if training is not None and training.unread:
        raise UnsupportedLayout(
            f"{listed(list(training.unread), 4)}: the value is not plain, and would be lost",
            remedy=remedy,
            address=at_hand,
        )
    if training is not None and training.differs:
        raise UnsupportedLayout(
            f"the param groups of model-parallel ranks differ in {listed(list(map(repr, training.differs)), 4)}",
            remedy=remedy,
            address=at_hand,
        )
    is_listed = training is not None and bool(training.param_groups)
    nameless = any(name not in _kept(part) for part in catalog.parts for name in part.saved_masters)
    if nameless or not found[MASTERS] or (len(found) == 1 and not is_listed):
        raise UnsupportedLayout(
            f"what the optimizer of such a checkpoint keeps is not read ({catalog.origin.wrapper})",
            remedy=remedy,
            address=at_hand,
        )
    return found


def state_replicas(catalog: Catalog) -> list[Replica]:
    """Every state that is held more than once and must be equal; :func:`.sources.replicas` has the masters."""
    return [
        replace(replica, name=f"{state} of {replica.name}")
        for state in _state_names(catalog)
        for replica in replicas(_of_state(catalog, state))
    ]


def steps(catalog: Catalog) -> dict[str, Step]:
    """Stored name -> the step of the parameter, or of the flat group that it is in. Raises Disagreement if it is held
    several times, and steps differ."""
    found: dict[str, Step] = {}
    for name, step in _all_steps(catalog):
        known = found.setdefault(name, step)
        if plain_step(known) != plain_step(step):
            with at(name):
                raise Disagreement(
                    "model-parallel ranks differ in the step", expected=plain_step(known), found=plain_step(step)
                )
    return found


def _all_steps(catalog: Catalog) -> Iterator[tuple[str, Step]]:
    for group in catalog.groups:
        for member in group.members:
            yield member.name, group.step
    for part in catalog.parts:
        for masters, states in zip(part.masters, part.master_states, strict=True):
            for name in masters:
                yield name, states[name].step if name in states else None


def plain_step(step: Step) -> float | int | None:
    """The number that a step is."""
    return step.item if isinstance(step, LocatedTensor) else step


def local_experts(catalog: Catalog) -> dict[str, tuple[str, ...]]:
    """What expert-parallel ranks call their experts -> the stored names of these, by rank."""
    part = catalog.parts[0]
    return local_names([*([member.name for member in group.members] for group in part.groups), *part.masters])


def param_groups(catalog: Catalog) -> dict[str, int]:
    """Stored name -> the index of the param group that the parameter is in, which `Training.param_groups` describes.
    Empty where the settings of param groups were not saved. Raises Disagreement if a flat group is in none."""
    training = catalog.training
    if training is None or not training.param_groups:
        return {}
    group_of = {
        flat_group: index for index, flat_groups in enumerate(training.flat_groups) for flat_group in flat_groups
    }
    for group in catalog.groups:
        if group.members and group.index not in group_of:
            raise Disagreement(
                f"no param group lists flat group {group.index}",
                expected=f"one of the optimizer's {len(training.param_groups)}",
            )
    found = {member.name: group_of[group.index] for group in catalog.groups for member in group.members}
    return found | {name: kept.param_group for part in catalog.parts for name, kept in _kept(part).items()}


def _state_names(catalog: Catalog) -> list[str]:
    names = [name for group in catalog.groups if group.members for name in group.states]
    names += [name for part in catalog.parts for kept in _kept(part).values() for name in kept.values]
    return list(dict.fromkeys(names))


def _kept(part: Part) -> dict[str, MasterState]:
    """What the optimizer keeps of masters that are saved whole."""
    return {name: kept for states in part.master_states for name, kept in states.items()}


def _of_state(catalog: Catalog, state: str) -> Catalog:
    """The catalog of one state: nothing but the parameters that have it, with its storages in the masters' places.
    Groups may differ in their states: with Muon, one has `momentum_buffer` and another `exp_avg`."""
    parts = tuple(
        replace(
            part,
            groups=tuple(
                group if state == MASTERS else _with(group, state)
                for group in part.groups
                if group.members and (state == MASTERS or state in group.states)
            ),
            masters=part.masters if state == MASTERS else _masters_of(part, state),
            master_states=(),
            frozen={},
            buffers={},
            module={},
        )
        for part in catalog.parts
    )
    held = {member.name for part in parts for group in part.groups for member in group.members}
    held |= {name for part in parts for name in part.saved_masters}
    return replace(catalog, parts=parts, order=tuple(name for name in catalog.order if name in held))


def _masters_of(part: Part, state: str) -> tuple[Mapping[str, LocatedTensor], ...]:
    """The values of a state for masters that are saved whole, file by file."""
    return tuple(
        {name: kept.values[state] for name, kept in states.items() if state in kept.values}
        for states in part.master_states
    )


def _with(group: FlatGroup, state: str) -> FlatGroup:
    partitions = group.states[state]
    with at(f"group {group.index}"):
        if len(partitions) != len(group.partitions):
            raise Disagreement(
                f"not every rank has the optimizer's state {state!r} of the flat group",
                expected=f"{len(group.partitions)} of {group.holder}",
                found=len(partitions),
            )
        for own, master in zip(partitions, group.partitions, strict=True):
            if own.numel < master.numel:
                # `optimizer_file` places by what is in the file, before what was swapped out is looked for.
                raise UnsupportedLayout(
                    f"the optimizer's state {state!r} is shorter than the masters",
                    consequence="it was swapped out to NVMe, and its file is not there",
                    expected=master.numel,
                    found=own.numel,
                )
            # Only padding may be behind it, which masters are saved without (`zero12.py`).
            if own.numel - master.numel >= 2 * len(partitions):
                raise UnsupportedLayout(
                    f"the optimizer's state {state!r} is longer than the masters",
                    consequence="it is not laid out like them: DeepSpeed's Muon keeps all of a matrix on every rank "
                    "that has a part",
                    expected=master.numel,
                    found=own.numel,
                )
    return replace(group, partitions=partitions)
