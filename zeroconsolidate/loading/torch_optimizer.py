"""A training state and a model -> the state dict of one of torch's optimizers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..archive.phrases import listed
from ..errors import BadOption, Disagreement, WrongNames, at
from ..run.elements import read_all
from ..run.inputs import Inputs
from .settings import OF_THE_MACHINE, common_settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import torch

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
}
"""What optimizers cannot do without once they have stepped, by the name of their class."""
_WRAPPERS = ("module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Parts of a model's names that DistributedDataParallel, torch.compile and their like add."""


def state_dict_of(
    state: TrainingState,
    known: Iterable[Mapping[str, str]],
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer | None,
    *,
    strict: bool,
) -> dict[str, Any]:
    """What `load_state_dict` takes. `known`: mappings of names that the model may have to stored names, the best first.

    Raises WrongNames, Disagreement or BadOption.
    """
    names = names_of(model)
    stored = _matched(names, known)
    groups = (
        _by_optimizer(state, model, names, stored, optimizer) if optimizer else _by_checkpoint(state, names, stored)
    )
    listed_names = [name for members, _ in groups for name in members]
    expected = listed_names if optimizer is not None else _to_train(names)
    missing = [name for name in expected if stored.get(name) not in state.states]
    placed = {stored[name] for name in listed_names if name in stored}
    unexpected = [name for name in state.states if name not in placed]
    if strict and (missing or unexpected):
        raise _unmatched(missing, unexpected, state.title, is_given=optimizer is not None)
    found: dict[int, dict[str, Any]] = {}
    shapes = {name: tuple(parameter.shape) for name, parameter in names.items()}
    with Inputs() as inputs:
        for index, name in enumerate(listed_names):
            if stored.get(name) in state.states:
                with at(name):
                    found[index] = _state(state, stored[name], shapes[name], optimizer, inputs)
    param_groups, here = [], 0
    for members, settings in groups:
        param_groups.append({**settings, "params": list(range(here, here + len(members)))})
        here += len(members)
    return {"state": {index: held for index, held in found.items() if held}, "param_groups": param_groups}


def names_of(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters of a model by all of their names, without what wrappers add."""
    return {
        ".".join(part for part in name.split(".") if part not in _WRAPPERS): parameter
        for name, parameter in model.named_parameters(remove_duplicate=False)
    }


def _to_train(names: Mapping[str, torch.nn.Parameter]) -> list[str]:
    """The first names of the parameters that whoever makes an optimizer for the model gives it."""
    first: dict[int, str] = {}
    for name, parameter in names.items():
        if parameter.requires_grad:
            first.setdefault(id(parameter), name)
    return list(first.values())


def _matched(names: Mapping[str, torch.nn.Parameter], known: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """First name of a parameter -> stored name, by the first mapping that knows all of them, or most."""
    second: dict[int, list[str]] = {}
    for name, parameter in names.items():
        second.setdefault(id(parameter), []).append(name)
    best: dict[str, str] = {}
    for mapping in known:
        found = {
            each[0]: mapping[known_as]
            for each in second.values()
            if (known_as := next((name for name in each if name in mapping), None)) is not None
        }
        if len(found) > len(best):
            best = found
        if len(best) == len(second):
            break
    return best


def _by_optimizer(
    state: TrainingState,
    model: torch.nn.Module,
    names: Mapping[str, torch.nn.Parameter],
    stored: Mapping[str, str],
    optimizer: torch.optim.Optimizer,
) -> list[tuple[list[str], dict[str, object]]]:
    """The optimizer's own groups, with the settings that their parameters were trained with."""
    first: dict[int, str] = {}
    for name, parameter in names.items():
        first.setdefault(id(parameter), name)
    groups = []
    for index, group in enumerate(optimizer.param_groups):
        strangers = sum(id(parameter) not in first for parameter in group["params"])
        if strangers:
            raise BadOption(
                f"param group {index} of the optimizer has {strangers} parameters that are not the model's",
                expected=f"those of this {type(model).__name__}",
            )
        members = [first[id(parameter)] for parameter in group["params"]]
        common, apart = common_settings(state, (stored[name] for name in members if name in stored))
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


def _by_checkpoint(
    state: TrainingState, names: Mapping[str, torch.nn.Parameter], stored: Mapping[str, str]
) -> list[tuple[list[str], dict[str, object]]]:
    """The checkpoint's groups; in each, parameters in the order of the model."""
    if not state.param_groups:
        raise BadOption(
            "the checkpoint does not say which param groups there were",
            remedy="give the optimizer: to_torch_optimizer(model, src, optimizer)",
            address=(state.title,),
        )
    members: list[list[str]] = [[] for _ in state.param_groups]
    for name in names:
        if name in stored and stored[name] in state.group_of:
            members[state.group_of[stored[name]]].append(name)
    return [
        (each, {key: _COMPUTED.get(key, value) for key, value in group.items()})
        for each, group in zip(members, state.param_groups, strict=True)
    ]


_COMPUTED: dict[str, object] = dict(zip(OF_THE_MACHINE, (None, None, False, False), strict=True))
"""As an optimizer has them that was made without saying anything about it."""


def _unmatched(missing: Sequence[str], unexpected: Sequence[str], title: str, *, is_given: bool) -> WrongNames:
    who = "the optimizer" if is_given else "the model"
    parts = [
        f"the checkpoint has no state of {listed(missing)}" if missing else "",
        f"{who} has no {listed(unexpected)}" if unexpected else "",
    ]
    return WrongNames(
        f"the parameters of {who} are not those that were trained",
        consequence=" and ".join(filter(None, parts)),
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
