"""An output that was written with `--optimizer` -> the training state in it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ..archive.json_file import read_json
from ..archive.model_files import MANIFEST_NAME, OPTIMIZER_FOLDER, OPTIMIZER_SETTINGS
from ..archive.places import is_file
from ..archive.weights import read_weights
from ..catalog.state import settings
from ..errors import BadOption, DamagedFile, NotACheckpoint, at
from ..options.urls import normal
from ..plan.sources import Source
from .training_state import TrainingState

if TYPE_CHECKING:
    from ..options import Roots


def written_state(src: Roots) -> TrainingState | None:
    """The training state beside a model that was written with `--optimizer`; None if `src` is no output of ours.

    Raises BadOption for an output without one, DamagedFile for files that contradict each other.
    """
    if not isinstance(src, (str, os.PathLike)):
        return None
    directory = normal(os.fspath(src))
    path = os.path.join(directory, OPTIMIZER_SETTINGS)
    if not is_file(path):
        if is_file(os.path.join(directory, MANIFEST_NAME)):
            raise BadOption(
                "the model was written without what its optimizer keeps",
                remedy="zeroconsolidate convert CHECKPOINT OUTPUT --optimizer",
                address=(directory,),
            )
        return None
    with at(path):
        content = read_json(path)
        groups, steps = content.get("param_groups"), content.get("steps")
        if content.get("optimizer_file") != 1 or not isinstance(groups, list) or not isinstance(steps, dict):
            raise DamagedFile("this does not say what an optimizer keeps, or in a format that is not known")
        group_of = {name: index for index, group in enumerate(groups) for name in _names(group)}
        if not all(isinstance(step, (int, float)) for step in steps.values()):
            raise DamagedFile("a step is not a number")
    states: dict[str, dict[str, Source]] = {name: {} for name in (*group_of, *steps)}
    weights = {name: Source.of_model(name, tensor) for name, tensor in read_weights(directory).tensors.items()}
    for key, tensor in _tensors(os.path.join(directory, OPTIMIZER_FOLDER)).items():
        name, _, state = key.rpartition(".")
        if name not in states:
            with at(path):
                raise DamagedFile(f"the settings have no parameter {name!r}, which has a state {state!r}")
        states[name][state] = Source.of_model(key, tensor)
    return TrainingState(
        title=directory,
        names={name: name for name in states},
        # What is in a small file of its own is known by the shape of its states.
        weights=weights | {name: source for name, held in states.items() for source in held.values()},
        states=states,
        steps={name: steps.get(name) for name in states},
        param_groups=tuple(_as_torch_has(settings(group)) for group in groups),
        group_of=group_of,
        scaler=None,
        looks={},
    )


def _names(group: object) -> list[str]:
    names = group.get("params") if isinstance(group, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DamagedFile("a param group does not list its parameters")
    return names


def _tensors(folder: str) -> dict[str, Any]:
    """None are there for an optimizer that keeps nothing of an element."""
    try:
        return dict(read_weights(folder).tensors)
    except NotACheckpoint:
        return {}


def _as_torch_has(group: dict[str, object]) -> dict[str, object]:
    """JSON has no tuples: `betas` is one."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in group.items()}
