"""DeepSpeed's optimizer in a live engine -> what this rank holds of each parameter, and where its values are put.

Every wrapper around the optimizer has one or several master tensors, which are what the wrapped optimizer knows as its
parameters. In stages 1 and 2 a master is this rank's partition of a flat group, at stage 3 the partitions of the
parameters of a sub-group end to end, at stage 0 a parameter by itself.

`safe_set_full_fp32_param` and `safe_set_full_optimizer_state` (`deepspeed/utils/tensor_fragment.py`) are not used in
stages 1 and 2: they take whole values, of which each rank keeps its fragment, know no state before the first step, and
with `round_robin_gradients` put a fragment into another parameter's place. The optimizer's own list of its flat groups
(`round_robin_bit16_groups`) is in the order in which they were flattened, with and without a round robin.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import UnsupportedLayout

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import torch


@dataclass(frozen=True, slots=True)
class Held:
    """Elements `[start, stop)` of a trained parameter, in row-major order: what this rank's optimizer has of it."""

    name: str
    start: int
    stop: int
    master: int
    """Index of the master tensor that they are in."""
    offset: int
    """Element of the master at which they begin."""


@dataclass(frozen=True, slots=True)
class Master:
    """A tensor that the wrapped optimizer knows as a parameter."""

    names: tuple[str, ...]
    """Of the parameters in it, or in another rank's part of the same flat group."""
    param_group: int
    tensor: Any
    """None where DeepSpeed has none to show."""


class LiveOptimizer(ABC):
    """The optimizer of an engine, one of those below."""

    masters: list[Master]
    held: list[Held]

    def __init__(self, wrapper: Any, inner: Any) -> None:
        self.wrapper, self.inner = wrapper, inner
        self.masters, self.held = [], []

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The wrapped optimizer's own, to be changed."""
        groups: list[dict[str, Any]] = self.inner.param_groups
        return groups

    def make_states(self, master: int, states: Iterable[str]) -> None:
        """Give a master these states, zeros, where it has not: an optimizer makes them in its first step."""
        import torch

        tensor = self.masters[master].tensor
        held = self.inner.state[tensor]
        for state in states:
            if state not in held:
                held[state] = torch.zeros_like(tensor)

    def set_step(self, master: int, step: float) -> None:
        """Give a master the step, in the form in which its optimizer keeps it."""
        import torch

        tensor = self.masters[master].tensor
        held = self.inner.state[tensor]
        group = self.param_groups[self.masters[master].param_group]
        if isinstance(held.get("step"), torch.Tensor) or type(self.inner).__module__.startswith("torch.optim"):
            on_device = group.get("capturable") or group.get("fused")
            device = tensor.device if on_device else "cpu"
            # As `_get_scalar_dtype` in torch/optim/optimizer.py.
            dtype = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
            held["step"] = torch.tensor(float(step), dtype=dtype, device=device)
        else:
            held["step"] = int(step)
        if "step" in group:  # FusedAdam counts in the param group
            group["step"] = int(step)

    def put(self, held: Held, state: str | None, values: torch.Tensor) -> None:
        """Put the values, flat, of what is held into the master, or into one of its states."""
        master = self.masters[held.master].tensor
        target = master.data if state is None else self.inner.state[master][state]
        target.reshape(-1).narrow(0, held.offset, held.stop - held.start).copy_(values)

    @abstractmethod
    def refresh(self) -> None:
        """Make the parameters that compute follow their masters. May be a collective."""


class Partitioned(LiveOptimizer):
    """`DeepSpeedZeroOptimizer` (stages 1 and 2) and `BF16_Optimizer`."""

    def __init__(self, wrapper: Any, inner: Any, names: Mapping[int, str]) -> None:
        super().__init__(wrapper, inner)
        import torch.distributed as dist

        is_bf16 = hasattr(wrapper, "bf16_groups")
        groups = wrapper.bf16_groups if is_bf16 else wrapper.round_robin_bit16_groups
        partitions = wrapper.fp32_groups_flat_partition if is_bf16 else wrapper.single_partition_of_fp32_groups
        # Releases without `parameter_alignment` have no offsets: there is nothing between parameters.
        offsets_of = getattr(wrapper, "round_robin_bit16_offsets", None)
        for index, (group, partition) in enumerate(zip(groups, partitions, strict=True)):
            self.masters.append(Master(tuple(names[id(parameter)] for parameter in group), index, partition))
            begin = dist.get_rank(group=wrapper.real_dp_process_group[index]) * partition.numel()
            end = begin + partition.numel()
            for parameter, offset in zip(group, offsets_of[index] if offsets_of else _laid_out(group), strict=True):
                first, last = max(offset, begin), min(offset + parameter.numel(), end)
                if first < last:
                    name = names[id(parameter)]
                    self.held.append(Held(name, first - offset, last - offset, index, first - begin))

    def refresh(self) -> None:
        """All ranks gather the 16-bit parameters. Then DeepSpeed's getters find the states that were made."""
        self.wrapper.update_lp_params()
        self.wrapper._hp_optimizer_states_linked = False  # noqa: SLF001
        if all(self.inner.state.get(master.tensor) for master in self.masters):
            self.wrapper._lazy_init_hp_params_optimizer_state()  # noqa: SLF001


class Striped(LiveOptimizer):
    """`DeepSpeedZeroOptimizer_Stage3`."""

    def __init__(self, wrapper: Any, inner: Any, names: Mapping[int, str]) -> None:
        super().__init__(wrapper, inner)
        import torch.distributed as dist

        self._parameters = {}
        for index, group in enumerate(wrapper.fp16_groups):
            named = tuple(names[id(parameter)] for parameter in group)
            tensor = wrapper.fp32_partitioned_groups_flat[index]
            self.masters.append(Master(named, wrapper.sub_group_to_group_id[index], tensor))
            for name, parameter in zip(named, group, strict=True):
                numel = parameter.ds_tensor.numel()
                start = min(numel * dist.get_rank(group=parameter.ds_process_group), parameter.ds_numel)
                self.held.append(Held(name, start, min(start + numel, parameter.ds_numel), index, 0))
                self._parameters[name] = parameter

    def put(self, held: Held, state: str | None, values: torch.Tensor) -> None:
        """By DeepSpeed's own setters, which take this rank's stripe with its padding."""
        from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

        parameter = self._parameters[held.name]
        stripe = _padded(values, parameter.ds_tensor.numel())
        if state is None:
            safe_set_local_fp32_param(parameter, stripe)
        else:
            safe_set_local_optimizer_state(parameter, stripe, state)

    def refresh(self) -> None:
        """As after a step of the optimizer."""
        for index in range(len(self.masters)):
            self.wrapper._reassign_or_swap_out_partitioned_parameters(index)  # noqa: SLF001


class Whole(LiveOptimizer):
    """Stage 0: each parameter has a master of its own (`FP16_UnfusedOptimizer`), or is one."""

    def __init__(self, wrapper: Any, inner: Any, names: Mapping[int, str]) -> None:
        super().__init__(wrapper, inner)
        groups = getattr(wrapper, "fp16_groups", None) or [group["params"] for group in inner.param_groups]
        masters = getattr(wrapper, "fp32_groups", groups)
        self._pairs = []
        for index, (group, own) in enumerate(zip(groups, masters, strict=True)):
            for parameter, master in zip(group, own, strict=True):
                if parameter.requires_grad:
                    name = names[id(parameter)]
                    self.held.append(Held(name, 0, parameter.numel(), len(self.masters), 0))
                    self.masters.append(Master((name,), index, master))
                    self._pairs.append((parameter, master))

    def put(self, held: Held, state: str | None, values: torch.Tensor) -> None:
        """Of a parameter that may be laid out otherwise than in row-major order."""
        master = self.masters[held.master].tensor
        target = master.data if state is None else self.inner.state[master][state]
        target.copy_(values.view(target.shape))

    def refresh(self) -> None:
        for parameter, master in self._pairs:
            parameter.data.copy_(master.data)


def live_optimizer(engine: Any, names: Mapping[int, str]) -> LiveOptimizer:
    """The optimizer of an engine. `names`: of the parameters, by their `id`. Raises UnsupportedLayout."""
    import torch

    wrapper = engine.optimizer
    if isinstance(wrapper, torch.optim.Optimizer):
        return Whole(wrapper, wrapper, names)
    kind = type(wrapper).__name__
    known: dict[str, type[Partitioned | Striped | Whole]] = {
        "DeepSpeedZeroOptimizer": Partitioned,
        "BF16_Optimizer": Partitioned,
        "DeepSpeedZeroOptimizer_Stage3": Striped,
        "FP16_UnfusedOptimizer": Whole,
    }
    if kind not in known:
        raise UnsupportedLayout(
            f"the engine's optimizer is a {kind}", expected=f"one of {', '.join(known)}, or one of torch's"
        )
    for flag, what in _REFUSED.items():
        if getattr(wrapper, flag, None):
            raise UnsupportedLayout(f"the engine {what}", consequence="values cannot be put into it")
    return known[kind](wrapper, wrapper.optimizer, names)


_REFUSED = {
    "swap_optimizer": "swaps its optimizer's states out to NVMe",
    "params_in_nvme_and_cpu": "swaps its parameters out to NVMe",
    "zenflow": "updates its parameters with ZenFlow",
    "backup_optimizer": "keeps a part of its optimizer's states on another device ('ratio')",
}
"""Attributes of DeepSpeed's optimizers."""


def _laid_out(group: Sequence[Any]) -> list[int]:
    offsets, here = [], 0
    for parameter in group:
        offsets.append(here)
        here += parameter.numel()
    return offsets


def _padded(values: torch.Tensor, numel: int) -> torch.Tensor:
    """Zeros behind, as many as DeepSpeed has."""
    import torch

    return torch.nn.functional.pad(values, (0, numel - values.numel()))
