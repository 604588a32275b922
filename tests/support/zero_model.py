"""An independent model of how DeepSpeed spreads a model over ranks and saves it: the oracle's other half.

Written from DeepSpeed's own source (0.19.8), with torch tensors and `torch.save`, and from nothing of
zeroconsolidate: what it cuts apart, zeroconsolidate has to put together again.

* stages 1 and 2: `runtime/zero/stage_1_and_2.py`, `DeepSpeedZeroOptimizer.__init__`, `_round_robin_reorder`,
  `get_data_parallel_partitions`, `_get_groups_without_padding`, `state_dict`;
* stage 3: `runtime/zero/partition_parameters.py`, `_aligned_size` and `_partition_param`;
  `runtime/zero/stage3.py`, `_create_fp16_sub_groups`, `_rigid_state_dict`;
* files: `runtime/engine.py`, `_save_checkpoint`, `_get_zero_param_shapes`, `_get_zero_frozen_param_attributes`.
"""

from __future__ import annotations

import enum
import math
import sys
import types
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@dataclass(kw_only=True)
class Run:
    """A training run at the moment it is saved. The tensors are the truth."""

    stage: int
    world_size: int
    groups: list[dict[str, Tensor]]
    """The optimizer's param groups: name -> master weight, fp32, in full shape."""
    compute_dtype: torch.dtype = torch.bfloat16
    frozen: dict[str, Tensor] = field(default_factory=dict)
    buffers: dict[str, Tensor] = field(default_factory=dict)
    ties: dict[str, str] = field(default_factory=dict)
    """alias -> canonical name."""
    order: list[str] | None = None
    """All names in module order; by default groups, frozen, buffers, ties."""
    round_robin: bool = False
    parameter_alignment: bool = False
    sub_group_numel: int | None = None
    """Stage 3: `sub_group_size`, in elements of one rank's partition."""
    exclude_frozen: bool = False
    strips_tail: bool = True
    """False: as BF16_Optimizer, which saves the padding of the last partition."""
    records_paddings: bool = True
    """False: as DeepSpeed up to 0.19.6, which has no `param_alignment_paddings`."""
    empties_are_optimized: bool = False
    """True: as DeepSpeed before 0.19.8, whose flat groups list parameters without elements."""
    records_ties: bool = True
    """False: as DeepSpeed 0.9.5 at stages 1 and 2, whose `shared_params` is empty."""
    state_dict_name: Callable[[str], str] = str
    """What a name is called in `module`, where hooks of the state dict change it (torch's `checkpoint_wrapper`)."""
    step: int = 7
    ds_version: str = "0.19.8"
    extra: dict[str, Any] = field(default_factory=dict)
    """Client state, merged into the model files."""

    @property
    def truth(self) -> dict[str, Tensor]:
        """Every tensor that can be got back, by its stored name: masters, frozen (if saved), buffers."""
        masters = {name: tensor for group in self.groups for name, tensor in group.items()}
        return masters | ({} if self.exclude_frozen else self.frozen) | self.buffers

    @property
    def names(self) -> list[str]:
        return self.order or [*(n for g in self.groups for n in g), *self.frozen, *self.buffers, *self.ties]

    def optimized(self) -> list[dict[str, Tensor]]:
        """The groups as the optimizer owns them (`runtime/utils.py`, `is_optimized_parameter`)."""
        return [
            {name: tensor for name, tensor in group.items() if tensor.numel() or self.empties_are_optimized}
            for group in self.groups
        ]

    def unoptimized(self) -> dict[str, Tensor]:
        """What is saved with the frozen parameters, in the compute dtype."""
        owned = {name for group in self.optimized() for name in group}
        empties = {
            name: tensor.to(self.compute_dtype)
            for group in self.groups
            for name, tensor in group.items()
            if name not in owned
        }
        return empties | self.frozen


def save(run: Run, root: Path, tag: str = "global_step7", *, latest: bool = True) -> Path:
    """Write the checkpoint of `run` to `root/tag`, and `root/latest`. Returns `root`."""
    folder = root / tag
    folder.mkdir(parents=True, exist_ok=True)
    with _deepspeed_classes() as classes:
        (_save_stage3 if run.stage == 3 else _save_stage12)(run, folder, classes)
    if latest:
        (root / "latest").write_text(tag)
    return root


# --- stages 1 and 2 -------------------------------------------------------------------------------------------------


def round_robin(names: list[str], world_size: int) -> list[str]:
    """Deal the parameters to ranks like cards, then lay the hands one behind the other."""
    hands: dict[int, list[str]] = {}
    for position, name in enumerate(names):
        hands.setdefault(position % world_size, []).append(name)
    return [name for hand in hands.values() for name in hand]


@dataclass
class Flat:
    """A flat group of stages 1 and 2: order on disk, padding behind each, ranks' partitions, tail per rank."""

    names: list[str]
    paddings: list[int]
    partitions: list[Tensor]
    tails: list[int]
    buffer: Tensor


def flatten(run: Run, group: dict[str, Tensor]) -> Flat:
    names = round_robin(list(group), run.world_size) if run.round_robin else list(group)
    itemsize = torch.empty(0, dtype=run.compute_dtype).element_size()
    alignment = 16 // math.gcd(16, itemsize) if run.parameter_alignment else 1
    pieces, paddings, offset = [], [], 0
    for name in names:
        offset += group[name].numel()
        padding = 0 if name == names[-1] else -offset % alignment
        offset += padding
        paddings.append(padding)
        pieces += [group[name].reshape(-1), torch.zeros(padding)]
    tail = -offset % (2 * run.world_size)
    buffer = torch.cat([*pieces, torch.zeros(tail)])
    share = buffer.numel() // run.world_size
    partitions = list(buffer.split(share)) if share else [buffer] * run.world_size
    tails = [min(max((rank + 1) * share - offset, 0), share) for rank in range(run.world_size)]
    return Flat(names, paddings, partitions, tails, buffer)


def _save_stage12(run: Run, folder: Path, classes: _Classes) -> None:
    flats = [flatten(run, group) for group in run.optimized()]
    module, views = {}, {}
    for flat, group in zip(flats, run.optimized(), strict=True):
        # All 16-bit parameters of a group are views of one storage.
        storage, offset = flat.buffer.to(run.compute_dtype), 0
        for name, padding in zip(flat.names, flat.paddings, strict=True):
            numel = group[name].numel()
            views[name] = storage[offset : offset + numel].view(group[name].shape)
            offset += numel + padding
    shapes = [OrderedDict((name, group[name].shape) for name in flat.names) for flat, group in _both(run, flats)]
    for name in run.names:
        stored = run.ties.get(name, name)
        if stored in views:
            module[name] = views[stored]
        elif stored in run.buffers:
            module[name] = run.buffers[stored]
        elif name not in run.frozen or not run.exclude_frozen:  # an alias of an excluded parameter stays
            module[name] = run.unoptimized()[stored]
    lists_frozen = run.stage == 2 and not run.exclude_frozen
    _model_file(
        run,
        folder / "mp_rank_00_model_states.pt",
        module=module,
        param_shapes=shapes,
        frozen=run.unoptimized() if lists_frozen else None,
        ties=run.ties if run.records_ties else {},
    )
    for rank in range(run.world_size):
        partitions = [
            flat.partitions[rank][: len(flat.partitions[rank]) - flat.tails[rank] if run.strips_tail else None]
            for flat in flats
        ]
        content: dict[str, Any] = {
            "loss_scaler": classes.loss_scaler(),
            "dynamic_loss_scale": False,
            "overflow": False,
            "clip_grad": 1.0,
            "base_optimizer_state": _optimizer(run, [flat.partitions[rank] for flat in flats], [1] * len(flats)),
            "single_partition_of_fp32_groups": partitions,
            "zero_stage": classes.stage(run.stage),
            "group_paddings": [flat.tails[rank] for flat in flats],
            "partition_count": [run.world_size] * len(flats),
            "ds_version": run.ds_version,
            "param_slice_mappings": [_slices(flat, group, rank, classes) for flat, group in _both(run, flats)],
        }
        if run.records_paddings:
            content["param_alignment_paddings"] = [flat.paddings for flat in flats]
        _optimizer_file(run, folder, rank, content)


def _both(run: Run, flats: list[Flat]) -> Iterator[tuple[Flat, dict[str, Tensor]]]:
    return zip(flats, run.optimized(), strict=True)


def _slices(flat: Flat, group: dict[str, Tensor], rank: int, classes: _Classes) -> OrderedDict[str, Any]:
    """DeepSpeed's own mapping, which walks the parameters in their order *before* the round robin."""
    found: OrderedDict[str, Any] = OrderedDict()
    offset, share = 0, len(flat.partitions[rank])
    for name, tensor in group.items():
        start, stop = max(offset - rank * share, 0), min(offset + tensor.numel() - rank * share, share)
        if start < stop:
            found[name] = classes.fragment(stop - start, start)
        offset += tensor.numel()
    return found


# --- stage 3 --------------------------------------------------------------------------------------------------------


def stripe(tensor: Tensor, rank: int, world_size: int) -> Tensor:
    """One rank's part of a parameter: a world_size-th of it after it was filled up to divide evenly."""
    flat = tensor.reshape(-1)
    filled = torch.cat([flat, torch.zeros(-flat.numel() % world_size, dtype=flat.dtype)])
    share = filled.numel() // world_size
    return filled[rank * share : (rank + 1) * share]


def sub_groups(run: Run, group: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """A group is closed as soon as it reaches `sub_group_size`, counted in elements of a rank's partition."""
    shares = {name: len(stripe(tensor, 0, run.world_size)) for name, tensor in group.items()}
    if run.sub_group_numel is None or run.sub_group_numel >= sum(shares.values()):
        return [group]
    made, current, held = [], {}, 0
    for position, (name, tensor) in enumerate(group.items()):
        current[name] = tensor
        held += shares[name]
        if held >= run.sub_group_numel or position == len(group) - 1:
            made.append(current)
            current, held = {}, 0
    return made


def _save_stage3(run: Run, folder: Path, classes: _Classes) -> None:
    by_group = [sub_groups(run, group) for group in run.optimized()]
    subs = [sub for group in by_group for sub in group]
    for rank in range(run.world_size):
        module: dict[str, Tensor] = {}
        for name in run.names:
            stored = run.ties.get(name, name)
            if stored in run.buffers:
                module[name] = run.buffers[stored]
            elif stored in run.frozen:
                if name not in run.frozen or not run.exclude_frozen:
                    module[name] = torch.empty(0, dtype=run.frozen[stored].dtype)
            else:
                module[name] = torch.empty(0, dtype=run.compute_dtype)
        _model_file(
            run,
            folder / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt",
            module=module,
            param_shapes=[OrderedDict((name, tensor.shape) for name, tensor in sub.items()) for sub in subs],
            frozen=None if run.exclude_frozen else run.unoptimized(),
            fragments={
                name: stripe(tensor, rank, run.world_size).clone() for name, tensor in run.unoptimized().items()
            },
            ties=run.ties if rank == 0 and run.records_ties else {},
        )
        flats = []
        for index, sub in enumerate(subs):
            parts = [stripe(tensor, rank, run.world_size) for tensor in sub.values()]
            flat = torch.cat(parts) if parts else torch.empty(0)
            flat.ds_id = f"{index}"  # an attribute makes torch save it through _rebuild_from_type_v2
            flats.append(flat)
        content = {
            "zero_stage": classes.stage(3),
            "loss_scaler": classes.loss_scaler(),
            "dynamic_loss_scale": False,
            "overflow": False,
            "partition_count": run.world_size,
            "optimizer_state_dict": _optimizer(run, flats, [len(group) for group in by_group]),
            "fp32_flat_groups": flats,
        }
        _optimizer_file(run, folder, rank, content)


# --- files ----------------------------------------------------------------------------------------------------------


def _optimizer(run: Run, flats: list[Tensor], counts: list[int]) -> dict[str, Any]:
    """`counts`: how many flat groups each param group has."""
    state = {
        index: {"step": torch.tensor(float(run.step)), "exp_avg": flat * 0.5, "exp_avg_sq": flat * flat}
        for index, flat in enumerate(flats)
    }
    groups = [
        {
            "lr": 1e-3,
            "betas": (0.9, 0.999),
            "eps": 1e-8,
            "weight_decay": 0.1 * index,
            "params": list(range(sum(counts[:index]), sum(counts[: index + 1]))),
        }
        for index in range(len(run.groups))
    ]
    return {"state": state, "param_groups": groups}


def _model_file(
    run: Run,
    path: Path,
    *,
    module: dict[str, Tensor],
    param_shapes: list[OrderedDict[str, torch.Size]],
    frozen: dict[str, Tensor] | None,
    ties: dict[str, str],
    fragments: dict[str, Tensor] | None = None,
) -> None:
    fragments = frozen if fragments is None else fragments
    content = {
        "module": OrderedDict((run.state_dict_name(name), tensor) for name, tensor in module.items()),
        "buffer_names": list(run.buffers),
        "optimizer": None,
        "param_shapes": param_shapes,
        "frozen_param_shapes": None if frozen is None else OrderedDict((n, t.shape) for n, t in frozen.items()),
        "shared_params": dict(ties),
        "frozen_param_fragments": None if frozen is None else OrderedDict(fragments or {}),
        "lr_scheduler": None,
        "data_sampler": None,
        "random_ltd": None,
        "skipped_steps": 0,
        "global_steps": run.step,
        "global_samples": run.step * run.world_size,
        "dp_world_size": run.world_size,
        "mp_world_size": 1,
        "ds_config": {"zero_optimization": {"stage": run.stage}},
        "ds_version": run.ds_version,
    }
    torch.save(content | run.extra, path)


def _optimizer_file(run: Run, folder: Path, rank: int, content: dict[str, Any]) -> None:
    prefix = "bf16_" if run.compute_dtype is torch.bfloat16 else ""
    torch.save(
        {"optimizer_state_dict": content, "ds_config": {"zero_optimization": {}}, "ds_version": run.ds_version},
        folder / f"{prefix}zero_pp_rank_{rank}_mp_rank_00_optim_states.pt",
    )


class _Classes:
    """Stand-ins under the names of the DeepSpeed classes that real files contain."""

    def __init__(self) -> None:
        self.stage = enum.IntEnum("ZeroStageEnum", {"optimizer_states": 1, "gradients": 2, "weights": 3})
        self.loss_scaler = type("LossScaler", (), {})
        self.fragment = type("fragment_address", (), {"__init__": _fragment})
        self.homes = {
            "deepspeed.runtime.zero.config": self.stage,
            "deepspeed.runtime.fp16.loss_scaler": self.loss_scaler,
            "deepspeed.utils.tensor_fragment": self.fragment,
        }


def _fragment(self: Any, numel: int, start: int) -> None:
    self.numel, self.start = numel, start


@contextmanager
def _deepspeed_classes() -> Iterator[_Classes]:
    """Modules with DeepSpeed's names while pickles are written (pickle looks classes up), gone afterwards."""
    classes = _Classes()
    before = dict(sys.modules)
    for home, cls in classes.homes.items():
        parts = home.split(".")
        for depth in range(1, len(parts) + 1):
            sys.modules[".".join(parts[:depth])] = types.ModuleType(".".join(parts[:depth]))
        setattr(sys.modules[home], cls.__name__, cls)
        cls.__module__, cls.__qualname__ = home, cls.__name__
    try:
        yield classes
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "deepspeed"]:
            del sys.modules[name]
        sys.modules.update(before)


def example(stage: int, world_size: int = 2, **changes: Any) -> Run:
    """A small run with something of everything: two groups, a frozen parameter, buffers, a tie, odd sizes."""
    generator = torch.Generator().manual_seed(100 * stage + world_size)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    facts: dict[str, Any] = {
        "groups": [
            {"embed.weight": randn(5, 3), "layers.0.weight": randn(3, 3), "layers.0.scale": randn(1)},
            {"layers.0.bias": randn(3), "norm.weight": randn(7)},
        ],
        "frozen": {"adapter.base": randn(4, 3).bfloat16()},
        "buffers": {"positions": torch.tensor([1, 2**24 + 1]), "mask": torch.tensor([True, False, True])},
        "ties": {"head.weight": "embed.weight"},
    }
    return Run(stage=stage, world_size=world_size, **(facts | changes))
