"""What an engine reads from `zero/optimizer_state.pt` of a universal checkpoint, at whatever stage it runs.

Stages 1 and 2 read `param_groups`, `ds_version`, the loss scaler and the clipping; stage 3 reads the loss scaler, and
`optimizer_state_dict` with the step and the settings of the first param group (mirrors `_load_global_state` and
`load_hp_checkpoint_state_from_checkpoint_dir` in `deepspeed/runtime/base_optimizer.py` and
`load_hp_checkpoint_state_from_checkpoint_dir_stage3` in `deepspeed/runtime/zero/stage3.py`). So the file has both.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from ...archive.located import LocatedTensor
from ...dtypes import DType
from ...errors import UnsupportedLayout
from ...plan.fragment import plain_file
from ...plan.pickled import Stored

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ...catalog.facts import Origin
    from ...catalog.state import Step
    from ...catalog.training import Training

_FORMATS = {DType.F32: "<f", DType.F64: "<d", DType.I64: "<q", DType.I32: "<i"}
"""What steps are saved as."""


def stored_step(step: Step) -> tuple[object, dict[str, bytes]]:
    """A step as it is pickled: a number, or a tensor and its bytes. Raises UnsupportedLayout for an unusual dtype."""
    if not isinstance(step, LocatedTensor):
        return step, {}
    if step.dtype not in _FORMATS or step.item is None:
        raise UnsupportedLayout(f"the optimizer's step is a tensor of {step.dtype.torch_name}")
    data = struct.pack(_FORMATS[step.dtype], step.item)
    return Stored("0", step.dtype, (), 1), {"0": data}


def optimizer_state(name: str, training: Training, origin: Origin, *, groups: int, step: Step) -> bytes:
    """The file. `groups`: how many param groups there are, for files that do not list them; `step`: the first
    group's."""
    listed = training.param_groups or ({},) * groups
    value, data = stored_step(step)
    content: dict[str, Any] = {
        **training.flags,
        **({} if training.scaler is None else {"loss_scaler": training.scaler}),
        "zero_stage": origin.stage,
        "ds_version": origin.ds_version,
        "param_groups": [{**group, "params": []} for group in listed],
        "optimizer_state_dict": {
            "state": {0: {} if value is None else {"step": value}},
            "param_groups": [{**shared(listed), "params": []}],
        },
    }
    return plain_file(name, content, data)


def shared(groups: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """The settings that all groups have in common: stage 3 gives those of the first group to all of them, and what is
    not there each keeps as the program has set it."""
    first, *others = groups
    return {
        key: value
        for key, value in first.items()
        if all(key in group and group[key] == value and type(group[key]) is type(value) for group in others)
    }


def differing(groups: Sequence[Mapping[str, object]]) -> list[str]:
    """The settings in which groups differ."""
    common = shared(groups) if groups else {}
    return [key for key in dict.fromkeys(key for group in groups for key in group) if key not in common]
