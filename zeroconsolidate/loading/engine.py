"""A checkpoint of any stage and world size -> a live engine of any stage and world size.

Each rank reads metadata, decides what goes where, tells the others that it could, and then reads the elements that it
holds and no others. What is decided is the same on all ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..archive.phrases import listed
from ..catalog.nested import rebuilt
from ..dtypes import DType
from ..errors import Disagreement, UnsupportedLayout, WrongNames, at
from ..plan.pieces import View
from ..run.elements import read_range
from ..run.inputs import Inputs
from .engine_report import EngineReport
from .settings import common_settings
from .training_state import open_training_state

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch

    from ..archive.located import LocatedTensor
    from ..catalog.resuming import Resuming
    from ..integrations.live_engine import LiveEngine
    from ..integrations.live_optimizers import LiveOptimizer
    from ..options import Opening, Roots
    from ..plan.pieces import Recipe
    from .training_state import TrainingState

_WITHOUT = "optimizer=False loads the weights alone"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decided:
    """What goes where. Names are the engine's."""

    stored: Mapping[str, str]
    """Name -> stored name, of what is loaded."""
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    states: Mapping[int, tuple[str, ...]]
    """By master of the engine's optimizer: the states it gets."""
    steps: Mapping[int, float]
    """By master."""
    settings: Mapping[int, Mapping[str, object]]
    """By param group of the engine."""
    notes: tuple[str, ...]


def put_into_engine(live: LiveEngine, src: Roots, which: Opening, *, optimizer: bool, strict: bool) -> EngineReport:
    """Load. A collective. Raises on all ranks if one cannot."""
    with live.together() as said:
        state, resuming = open_training_state(src, which, optimizer=optimizer, remedy=_WITHOUT)
        decided = _decide(live, state, optimizer=optimizer, strict=strict)
        said += [state.title, resuming.global_steps, len(decided.stored)]
    live.begin()
    notes = list(decided.notes)
    with live.together(), Inputs(known=state.looks) as inputs:
        _put(live, state, decided, inputs)
        if optimizer:
            notes += _go_on(live, state, resuming, decided)
        client_state = {
            key: rebuilt(value, lambda tensor, _: _loaded(tensor, inputs))
            for key, value in resuming.client_state.items()
        }
    live.refresh()
    return EngineReport(
        loaded=len(decided.stored),
        missing=decided.missing,
        unexpected=decided.unexpected,
        notes=tuple(notes),
        step=resuming.global_steps,
        client_state=client_state,
    )


def _decide(live: LiveEngine, state: TrainingState, *, optimizer: bool, strict: bool) -> _Decided:
    names = [*live.parameters, *live.buffers]
    second: dict[str, list[str]] = {}
    for name, first in live.names.items():
        second.setdefault(first, []).append(name)
    stored = {
        name: state.names[known]
        for name in names
        if (known := next((each for each in second.get(name, [name]) if each in state.names), None)) is not None
    }
    missing = tuple(name for name in names if name not in stored)
    used = set(stored.values())
    unexpected = tuple(name for name in state.weights if name not in used)
    if strict and (missing or unexpected):
        raise _unmatched(missing, unexpected, state.title)
    for name, source in stored.items():
        with at(name):
            if live.shape(name) != state.weights[source].shape:
                raise Disagreement(
                    "the engine's tensor has another shape than the checkpoint's",
                    expected=live.shape(name),
                    found=state.weights[source].shape,
                )
    if not optimizer or live.optimizer is None:
        if optimizer:
            raise UnsupportedLayout("the engine has no optimizer", remedy=_WITHOUT)
        return _Decided(
            stored=stored, missing=missing, unexpected=unexpected, states={}, steps={}, settings={}, notes=()
        )
    states, steps = _states(live.optimizer, state, stored, strict=strict)
    settings, notes = _settings(live.optimizer, state, stored, strict=strict)
    return _Decided(
        stored=stored,
        missing=missing,
        unexpected=unexpected,
        states=states,
        steps=steps,
        settings=settings,
        notes=tuple(notes),
    )


def _unmatched(missing: tuple[str, ...], unexpected: tuple[str, ...], title: str) -> WrongNames:
    parts = [
        f"the checkpoint has no {listed(missing)}" if missing else "",
        f"the engine has no {listed(unexpected)}" if unexpected else "",
    ]
    return WrongNames(
        "the engine's names are not those of the checkpoint",
        consequence=" and ".join(filter(None, parts)),
        missing=missing,
        unexpected=unexpected,
        remedy="strict=False loads what both have",
        address=(title,),
    )


def _states(
    live: LiveOptimizer, state: TrainingState, stored: Mapping[str, str], *, strict: bool
) -> tuple[dict[int, tuple[str, ...]], dict[int, float]]:
    """By master: the states and the step of its parameters, which must agree in them."""
    states: dict[int, tuple[str, ...]] = {}
    steps: dict[int, float] = {}
    for index, master in enumerate(live.masters):
        known = [name for name in master.names if name in stored]
        without = [name for name in known if stored[name] not in state.states]
        if without and strict:
            raise WrongNames(
                f"the checkpoint has no optimizer state of {listed(without)}",
                consequence="the engine trains what was not trained",
                remedy="strict=False loads what there is",
                address=(state.title,),
            )
        trained = [stored[name] for name in known if name not in without]
        states[index] = tuple(dict.fromkeys(key for name in trained for key in state.states[name]))
        found = {state.steps[name] for name in trained}
        if len(found) > 1:
            raise Disagreement(
                "parameters that the engine's optimizer keeps together were trained for different numbers of steps",
                found=", ".join(map(str, sorted(found, key=str))),
                address=(f"param group {master.param_group}",),
            )
        step = found.pop() if found else None
        if step is not None:
            steps[index] = step
    return states, steps


def _settings(
    live: LiveOptimizer, state: TrainingState, stored: Mapping[str, str], *, strict: bool
) -> tuple[dict[int, dict[str, object]], list[str]]:
    """By param group of the engine: what the param groups that its parameters were in have in common."""
    found: dict[int, dict[str, object]] = {}
    notes = []
    for index in range(len(live.param_groups)):
        names = [name for master in live.masters if master.param_group == index for name in master.names]
        common, apart = common_settings(state, (stored[name] for name in names if name in stored))
        if apart:
            text = f"the engine's param group {index} has parameters of several, which differ in {listed(apart)}"
            if strict:
                raise Disagreement(
                    text,
                    consequence="the settings of neither are those of the other",
                    remedy="strict=False leaves these settings as the program has set them",
                    address=(state.title,),
                )
            notes.append(f"{text}: these stay as the program has set them")
        found[index] = common
    if not state.param_groups:
        notes.append("the checkpoint has no settings of param groups: they stay as the program has set them")
    return found, notes


def _put(live: LiveEngine, state: TrainingState, decided: _Decided, inputs: Inputs) -> None:
    """Read what this rank holds, one tensor after the other."""
    if live.optimizer is not None:
        for master, states in decided.states.items():
            live.optimizer.make_states(master, states)
        for held in live.optimizer.held:
            if held.name not in decided.stored:
                continue
            stored = decided.stored[held.name]
            with at(held.name):
                wanted: list[tuple[str | None, Recipe]] = [(None, state.weights[stored].recipe)]
                wanted += [(key, source.recipe) for key, source in state.states.get(stored, {}).items()]
                for key, recipe in wanted:
                    if held.start < held.stop:
                        live.optimizer.put(held, key, _values(recipe, held.start, held.stop, inputs))
    for name, stored in decided.stored.items():
        if name not in live.trained:
            with at(name):
                start, stop = live.stripe(name)
                live.put(name, _values(state.weights[stored].recipe, start, stop, inputs))


def _values(recipe: Recipe, start: int, stop: int, inputs: Inputs) -> torch.Tensor:
    from ..run.tensors import to_torch

    return to_torch(read_range(recipe, start, stop, inputs), recipe.dtype)


def _loaded(tensor: LocatedTensor, inputs: Inputs) -> torch.Tensor:
    return _values(View(tensor), 0, tensor.numel, inputs).reshape(tensor.shape)


def _go_on(live: LiveEngine, state: TrainingState, resuming: Resuming, decided: _Decided) -> Iterator[str]:
    """Settings, counters, scheduler and loss scale; yields notes."""
    if live.optimizer is not None:
        for index, settings in decided.settings.items():
            live.optimizer.param_groups[index].update(settings)
        for master, step in decided.steps.items():
            live.optimizer.set_step(master, step)
    if resuming.global_steps is not None:
        live.set_counters(
            global_steps=resuming.global_steps,
            skipped_steps=resuming.skipped_steps,
            global_samples=resuming.global_samples,
        )
    scheduler = resuming.lr_scheduler
    if scheduler is not None and live.has_scheduler:
        with Inputs(known=state.looks) as inputs:
            live.set_scheduler(rebuilt(scheduler, lambda tensor, _: _loaded(tensor, inputs)))
    elif scheduler is not None:
        yield "the checkpoint has the state of a scheduler, and the engine has none"
    elif live.has_scheduler:
        yield "the checkpoint has no state of a scheduler: the engine's stays as the program has made it"
    if state.scaler is not None and not live.set_scaler(state.scaler.name, _attributes(state.scaler.attributes)):
        yield "the loss was scaled in another way, or is not in the engine: its scale stays as the program has set it"
    if resuming.unread:
        yield f"not passed on, because they are objects of a class or not kept here: {listed(resuming.unread)}"


def _attributes(attributes: Mapping[str, object]) -> dict[str, Any]:
    return {
        key: f"torch.{value.torch_name}" if isinstance(value, DType) else value for key, value in attributes.items()
    }
