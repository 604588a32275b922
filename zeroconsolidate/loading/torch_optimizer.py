"""A training state and a model -> the state dict of one of torch's optimizers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..archive.phrases import counted, listed
from ..errors import BadOption, Disagreement, WrongNames, at
from ..run.elements import read_all
from ..run.inputs import Inputs
from .settings import OF_THE_MACHINE, common_settings

if TYPE_CHECKING:
    import torch

    from .trained import Trained
    from .training_state import TrainingState

_KEEPS = {
    "Adam": ("exp_avg", "exp_avg_sq"),
    "AdamW": ("exp_avg", "exp_avg_sq"),
    "RAdam": ("exp_avg", "exp_avg_sq"),
    "Adamax": ("exp_avg", "exp_inf"),
    "Adagrad": ("sum",),
    "Adadelta": ("square_avg", "acc_delta"),
    "RMSprop": ("square_avg",),
    "Lion": ("exp_avg",),
    "Muon": ("momentum_buffer",),
    # Its flat groups are vectors, of which it keeps more than of the matrices that they are cut into.
    "Adafactor": ("row_var", "col_var"),
}
"""What optimizers cannot do without once they have stepped, by the name of their class."""


def state_dict_of(
    state: TrainingState, trained: Trained, optimizer: torch.optim.Optimizer | None, *, strict: bool
) -> dict[str, Any]:
    """What `load_state_dict` takes. Raises WrongNames, Disagreement or BadOption."""
    groups = _by_checkpoint(state, trained) if optimizer is None else _by_optimizer(state, trained, optimizer)
    names = [name for members, _ in groups for name in members]
    expected = names
    if optimizer is None:
        # What whoever makes an optimizer for the model gives it.
        expected = [name for name, parameter in trained.parameters.items() if parameter.requires_grad]
    missing = tuple(name for name in expected if name not in trained.stored)
    placed = {trained.stored[name] for name in names if name in trained.stored}
    unexpected = tuple(name for name in state.states if name not in placed)
    if strict and (missing or unexpected):
        raise _unmatched(missing, unexpected, state.title, is_given=optimizer is not None)
    found: dict[int, dict[str, Any]] = {}
    with Inputs(known=state.looks) as inputs:
        for index, name in enumerate(names):
            if name in trained.stored:
                with at(name):
                    shape = tuple(trained.parameters[name].shape)
                    found[index] = _state(state, trained.stored[name], shape, optimizer, inputs)
    param_groups, here = [], 0
    for members, settings in groups:
        param_groups.append({**settings, "params": list(range(here, here + len(members)))})
        here += len(members)
    return {"state": {index: held for index, held in found.items() if held}, "param_groups": param_groups}


def _by_optimizer(
    state: TrainingState, trained: Trained, optimizer: torch.optim.Optimizer
) -> list[tuple[list[str], dict[str, object]]]:
    """The optimizer's own groups, with the settings that their parameters were trained with."""
    name_of = trained.name_of()
    groups = []
    for index, group in enumerate(optimizer.param_groups):
        strangers = sum(id(parameter) not in name_of for parameter in group["params"])
        if strangers:
            raise BadOption(
                f"param group {index} of the optimizer has {counted(strangers, 'parameter')} that the model has not",
                expected="an optimizer of this model",
            )
        members = [name_of[id(parameter)] for parameter in group["params"]]
        common, apart = common_settings(state, (trained.stored[name] for name in members if name in trained.stored))
        if apart:
            raise Disagreement(
                f"param group {index} of the optimizer has parameters of several, which differ in {listed(apart)}",
                consequence="the settings of neither are those of the other",
                remedy="make the optimizer with the param groups of the training run",
                address=(state.title,),
            )
        own = {key: value for key, value in group.items() if key != "params"}
        groups.append((members, {**own, **common}))
    return groups


def _by_checkpoint(state: TrainingState, trained: Trained) -> list[tuple[list[str], dict[str, object]]]:
    """The checkpoint's groups; in each, parameters in the order of the model."""
    if not state.param_groups:
        raise BadOption(
            "the checkpoint does not say which param groups there were",
            remedy="give the optimizer: to_torch_optimizer(model, src, optimizer)",
            address=(state.title,),
        )
    members: list[list[str]] = [[] for _ in state.param_groups]
    for name in trained.parameters:
        if name in trained.stored:
            members[state.group_of[trained.stored[name]]].append(name)
    return [
        (each, {key: _COMPUTED.get(key, value) for key, value in group.items()})
        for each, group in zip(members, state.param_groups, strict=True)
    ]


_COMPUTED: dict[str, object] = dict(zip(OF_THE_MACHINE, (None, None, False, False), strict=True))
"""As an optimizer has them that was made without saying anything about it."""


def _unmatched(missing: tuple[str, ...], unexpected: tuple[str, ...], title: str, *, is_given: bool) -> WrongNames:
    who = "the optimizer" if is_given else "the model"
    parts = [
        f"the checkpoint has no state of {listed(missing)}" if missing else "",
        f"{who} has no {listed(unexpected)}" if unexpected else "",
    ]
    return WrongNames(
        f"the parameters of {who} are not those that were trained",
        consequence=" and ".join(filter(None, parts)),
        missing=missing,
        unexpected=unexpected,
        remedy="strict=False takes what both have",
        address=(title,),
    )


def _state(
    state: TrainingState,
    stored: str,
    shape: tuple[int, ...],
    optimizer: torch.optim.Optimizer | None,
    inputs: Inputs,
) -> dict[str, Any]:
    """What the optimizer keeps of one parameter, in its shape."""
    import torch

    from ..run.tensors import to_torch

    sources, step = state.states[stored], state.steps[stored]
    needed = () if optimizer is None else _KEEPS.get(type(optimizer).__name__, ())
    lacking = [key for key in needed if key not in sources]
    if lacking and optimizer is not None:
        raise BadOption(
            f"the checkpoint is of another optimizer than {type(optimizer).__name__}",
            expected=listed(needed),
            found=listed(list(sources)) or "nothing that is kept of an element",
        )
    found: dict[str, Any] = {}
    if step is not None:
        # A tensor on the CPU is what torch's optimizers count in, in this dtype (`_get_scalar_dtype`).
        found["step"] = torch.tensor(float(step), dtype=torch.float32)
    for key, source in sources.items():
        if source.shape != shape:
            raise Disagreement("the model's tensor has another shape", expected=source.shape, found=shape)
        found[key] = to_torch(read_all(source.recipe, inputs), source.recipe.dtype).reshape(shape)
    return found
