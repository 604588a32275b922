"""A config.json -> what transformers expects: names, shapes, ties, and how names in memory become the hub's.

    python zeroconsolidate/integrations/architecture.py DIRECTORY      (reads DIRECTORY/config.json, prints JSON)

Run as a process of its own: a conversion then needs neither torch nor transformers in memory, and a model that
cannot be built takes only that process with it. The model is built on the meta device: no weights, no memory.

transformers 5 holds some weights under other names and in other shapes than the hub's files (experts fused into
one tensor, renamed parts), and a ZeRO checkpoint has the in-memory ones. `revert_weight_conversion` in
`transformers/core_model_loading.py` is transformers' own way back. It is given *row numbers* in place of
values, one tensor (or one module's tensors, where several make one) at a time: what comes out tells which rows of
which tensor make up each tensor of the hub's layout, and the streaming copy does the rest. A conversion that does not
use every row exactly once computes with values, or is one this trace does not understand: it is called opaque.
"""

from __future__ import annotations

import json
import resource
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch

TASK = "zeroconsolidate_task"
"""A key that a config may have here: which of PEFT's tasks the model was trained for, or the name of its class. It
then says more than `architectures`."""
EVERY = "every"
"""In place of a task: asks for all classes of such models, because the config names none."""
CLASSES = {
    "SEQ_CLS": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING",
    "TOKEN_CLS": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING",
    "QUESTION_ANS": "MODEL_FOR_QUESTION_ANSWERING_MAPPING",
}
"""PEFT's tasks that have a head of their own -> where transformers has the class for each kind of model."""

MAX_MEMORY_BYTES = 8 << 30
"""For a config that asks for a billion layers. Building 671 billion parameters takes about 1 GB, torch included."""

_NAME_SHIFT = 40  # a row number below, the number of its tensor above
_MAX_ELEMENTS = 1 << 22
_MAX_RUNS = 1 << 16


def main(directory: str) -> int:
    """Print what the architecture in `directory`/config.json expects."""
    with suppress(OSError, ValueError):  # macOS has the limit, and may not let it be set
        resource.setrlimit(resource.RLIMIT_DATA, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    try:
        print(json.dumps(expectation(directory)))  # noqa: T201  (the answer of this process)
    except Exception as error:  # noqa: BLE001  (any failure inside transformers means: this judge has no opinion)
        print(json.dumps({"error": f"{type(error).__name__}: {error!s:.300}"}))  # noqa: T201
        return 1
    return 0


def expectation(directory: str) -> dict[str, Any]:
    """Names, shapes, ties and conversions of the architecture that `directory`/config.json names; for EVERY a list of
    those of each class, in `all`."""
    import transformers

    config = read_config(directory)
    task = getattr(config, TASK, None)
    if task == EVERY:
        return {"all": [found for build in _every_class(config) if (found := _unless_it_fails(build, config))]}
    build: Any = class_for(config, task) or model_class(config)
    if build is None and config.architectures:
        raise LookupError(f"transformers {transformers.__version__} has no {config.architectures[0]}")
    return _expectation(build or transformers.AutoModel.from_config, config)


def _every_class(config: Any) -> list[Any]:
    """The classes that transformers has for such a config, the model without a head first."""
    import transformers

    kinds = [name for name in dir(transformers) if name.startswith("MODEL_FOR_") and name.endswith("_MAPPING")]
    found: dict[str, Any] = {}
    for kind in ["MODEL_MAPPING", "MODEL_FOR_CAUSAL_LM_MAPPING", *kinds]:
        several = getattr(transformers, kind).get(type(config), None) or ()
        for each in several if isinstance(several, (tuple, list)) else (several,):
            found.setdefault(each.__name__, each)
    return list(found.values())


def _unless_it_fails(build: Any, config: Any) -> dict[str, Any] | None:
    try:
        return _expectation(build, config)
    except Exception:  # noqa: BLE001  (a class that cannot be built of this config is none of those that were trained)
        return None


def _expectation(build: Any, config: Any) -> dict[str, Any]:
    import torch
    import transformers

    with torch.device("meta"):
        model: Any = build(config)
    state = model.state_dict()
    hub = _hub(model, state)
    ties = _ties(model)
    return {
        "class": type(model).__name__,
        "labels": config.num_labels,
        "origin": f"{type(model).__name__} (transformers {transformers.__version__})",
        "names": {name: list(tensor.shape) for name, tensor in state.items()},
        "integers": [name for name, t in (state | hub).items() if not (t.is_floating_point() or t.is_complex())],
        "ties": ties,
        "hub": {name: list(tensor.shape) for name, tensor in hub.items()},
        "hub_ties": {_hub_name(model, alias, state): _hub_name(model, kept, state) for alias, kept in ties.items()},
        "conversions": _conversions(model, state, hub),
        "linears": _linears(model, state),
    }


def _linears(model: Any, state: dict[str, torch.Tensor]) -> list[str]:
    """The weights of linear layers, by their names in memory. Subclasses are among them: compressed-tensors takes a
    module for linear if one of its classes is called so (`compressed_tensors/utils/match.py`)."""
    import torch

    modules = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    return [f"{name}.weight" for name in modules if f"{name}.weight" in state]


def read_config(directory: str) -> Any:
    """The configuration in `directory`/config.json, without running its code or downloading anything."""
    import transformers

    return transformers.AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)


def _ties(model: Any) -> dict[str, str]:
    """alias -> kept name. Before transformers 5, which lists them, those that share one parameter."""
    listed = getattr(model, "all_tied_weights_keys", None)
    if listed is not None:
        return dict(listed)
    first: dict[int, str] = {}
    named = model.named_parameters(remove_duplicate=False)
    return {name: kept for name, p in named if (kept := first.setdefault(id(p), name)) != name}


def class_for(config: Any, task: str | None) -> Any:
    """The class that models like `config` have for a task, or the class of that name; None without a task, or if such
    models have no class for it.

    Raises LookupError if transformers has no class of that name.
    """
    import transformers

    if task is None:
        return None
    if task in CLASSES:
        found = getattr(transformers, CLASSES[task]).get(type(config), None)
        # PEFT's tasks are those of texts; models of pictures are trained for them too, as the class they are.
        return found[0] if isinstance(found, tuple) and found else found
    found = _named(task)
    if found is None:
        raise LookupError(f"transformers {transformers.__version__} has no class {task} for {config.model_type}")
    return found


def _named(name: str) -> Any:
    """One of transformers' own model classes by its name, None if it is none."""
    import transformers

    found = getattr(transformers, name, None)
    return found if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel) else None


def model_class(config: Any) -> Any:
    """The first of transformers' own model classes that a configuration names, None if it names none."""
    names = getattr(config, "architectures", None) or []
    return next((found for name in names if (found := _named(str(name))) is not None), None)


def _hub(model: Any, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors under their names in files, with their shapes there. Before transformers 5: as in memory."""
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:
        return state
    hub: dict[str, torch.Tensor] = revert_weight_conversion(model, dict(state))
    return hub


def _hub_name(model: Any, name: str, state: dict[str, torch.Tensor]) -> str:
    """The name in files of a tensor that has one of its own there (tied ones do)."""
    names = list(_hub(model, {name: state[name]})) if name in state else []
    return names[0] if len(names) == 1 else name


def _conversions(model: Any, state: dict[str, torch.Tensor], hub: dict[str, torch.Tensor]) -> list[dict[str, Any]]:
    """How each tensor of the hub's layout is made, for those that differ from the one in memory."""
    numbers = {name: number for number, name in enumerate(state)}
    made: dict[str, dict[str, Any]] = {}
    groups: list[list[str]] = [[name] for name in state]
    for group in groups:
        outputs = _hub(model, {name: state[name] for name in group})
        if any(name not in hub or hub[name].shape != tensor.shape for name, tensor in outputs.items()):
            whole = _module_of(group[0], state)
            if whole != group:
                groups.append(whole)
            continue
        made |= _made_of(model, group, outputs, state, numbers)
    made |= {name: _opaque(name, hub[name], []) for name in hub if name not in made}
    return [entry for name, entry in made.items() if not _is_itself(name, entry)]


def _opaque(name: str, tensor: torch.Tensor, inputs: list[str]) -> dict[str, Any]:
    """A tensor that cannot be cut out of rows. `inputs`: what it is made of, as far as that is known."""
    return {"output": name, "shape": list(tensor.shape), "opaque": True, "inputs": inputs}


def _module_of(name: str, state: Iterable[str]) -> list[str]:
    """The tensors of the module that owns `name`, its siblings' included."""
    prefix = ".".join(name.split(".")[:-2]) + "."
    return [other for other in state if other.startswith(prefix)]


def _made_of(
    model: Any,
    group: list[str],
    outputs: dict[str, torch.Tensor],
    state: dict[str, torch.Tensor],
    numbers: dict[str, int],
) -> dict[str, dict[str, Any]]:
    """Trace rows through the conversion, or single elements where rows do not stay whole."""
    names = list(state)
    for rows in (True, False):
        if not rows and sum(state[name].numel() for name in group) > _MAX_ELEMENTS:
            break
        given = {name: _numbered(state[name], numbers[name], rows=rows) for name in group}
        try:
            traced = _hub(model, dict(given))
        except Exception:  # noqa: BLE001, S112  (an operation that does not work on numbered rows)
            continue
        entries = {name: _entry(name, tensor, traced.get(name), rows=rows) for name, tensor in outputs.items()}
        found = {name: entry for name, entry in entries.items() if entry is not None}
        if len(found) == len(outputs) and _uses_each_once(traced.values(), given.values()):
            for entry in found.values():
                entry["inputs"] = [names[number] for number in entry["inputs"]]
            return found
    return {name: _opaque(name, tensor, group) for name, tensor in outputs.items()}


def _uses_each_once(traced: Iterable[torch.Tensor], given: Iterable[torch.Tensor]) -> bool:
    """Whether what came out is what went in, in another order."""
    import torch

    out = torch.cat([tensor.reshape(-1) for tensor in traced])
    flat = sorted((tensor.reshape(-1) for tensor in given if tensor.numel()), key=lambda tensor: int(tensor[0]))
    sizes = [tensor.numel() for tensor in flat]
    if not sizes or out.numel() != sum(sizes):
        return out.numel() == sum(sizes)
    firsts = torch.stack([tensor[0] for tensor in flat])
    ends = torch.tensor(sizes).cumsum(0)
    owner = torch.searchsorted(firsts, out, right=True) - 1
    within = out - firsts[owner]  # of a negative owner, too: the last first number, which is larger
    if bool(((owner < 0) | (within < 0) | (within >= torch.tensor(sizes)[owner])).any()):
        return False
    seen = torch.zeros(out.numel(), dtype=torch.bool)
    seen[within + (ends - torch.tensor(sizes))[owner]] = True
    return bool(seen.all())


def _numbered(tensor: torch.Tensor, number: int, *, rows: bool) -> torch.Tensor:
    import torch

    shape = tensor.shape
    if rows and len(shape) > 1:
        shape = torch.Size((*shape[:-1], 1))
    elif rows:
        shape = torch.Size(shape)
    return torch.arange(shape.numel(), dtype=torch.int64).reshape(shape) + (number << _NAME_SHIFT)


def _entry(name: str, expected: torch.Tensor, traced: torch.Tensor | None, *, rows: bool) -> dict[str, Any] | None:
    """The runs of rows that make one output, or None if rows were not kept whole."""
    import torch

    if traced is None or traced.dtype != torch.int64:
        return None
    row_numel = expected.shape[-1] if rows and expected.dim() > 1 else 1
    wanted = (*expected.shape[:-1], 1) if rows and expected.dim() > 1 else tuple(expected.shape)
    if tuple(traced.shape) != tuple(wanted):
        return None
    flat = traced.reshape(-1)
    breaks = torch.nonzero(flat[1:] != flat[:-1] + 1).reshape(-1) + 1
    starts = [0, *breaks.tolist()] if flat.numel() else []
    if len(starts) > _MAX_RUNS:
        return None
    inputs: list[int] = []
    runs = []
    for start, stop in zip(starts, [*starts[1:], flat.numel()], strict=True):
        value = int(flat[start])
        number, first = value >> _NAME_SHIFT, value & ((1 << _NAME_SHIFT) - 1)
        if number not in inputs:
            inputs.append(number)
        runs.append([inputs.index(number), first, stop - start])
    return {
        "output": name,
        "shape": list(expected.shape),
        "opaque": False,
        "inputs": inputs,
        "row_numel": row_numel,
        "runs": runs,
    }


def _is_itself(name: str, entry: dict[str, Any]) -> bool:
    return not entry["opaque"] and entry["inputs"] == [name] and [run[:2] for run in entry["runs"]] == [[0, 0]]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
