"""Checkpoints of any size in DeepSpeed's dialect, made without DeepSpeed: for tests that need megabytes, not truth.

What real checkpoints look like is held by tests/fixtures; here only sizes, stages and ranks vary.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from pathlib import Path

VERSION = "0.19.8"


def shapes_of(megabytes: float, layers: int = 4) -> OrderedDict[str, torch.Size]:
    """Shapes of a model whose float32 masters take about so many megabytes."""
    width = max(int((megabytes * 1e6 / 4 / (layers + 1) / 3) ** 0.5), 2)
    shapes = OrderedDict({"embed.weight": torch.Size([3 * width + 1, width])})
    for layer in range(layers):
        shapes[f"layers.{layer}.up.weight"] = torch.Size([2 * width, width])
        shapes[f"layers.{layer}.down.weight"] = torch.Size([width, width])
        shapes[f"layers.{layer}.norm.weight"] = torch.Size([width])
    return shapes


def values_of(shapes: OrderedDict[str, torch.Size], seed: int = 7) -> OrderedDict[str, torch.Tensor]:
    """Random float32 values, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return OrderedDict((name, torch.randn(shape, generator=generator)) for name, shape in shapes.items())


def write(
    root: Path,
    values: OrderedDict[str, torch.Tensor],
    *,
    stage: int,
    ranks: int,
    step: int = 5,
    tag: str | None = None,
    moments: bool = False,
) -> Path:
    """Save `values` as the checkpoint `root` of a bf16 run, on request with an optimizer's moments; returns the tag's
    folder."""
    tag = tag or f"global_step{step}"
    folder = root / tag
    folder.mkdir(parents=True)
    shapes = OrderedDict((name, value.shape) for name, value in values.items())
    common = {
        "buffer_names": ["position"],
        "param_shapes": [shapes],
        "frozen_param_shapes": None,
        "frozen_param_fragments": None,
        "shared_params": {},
        "global_steps": step,
        "dp_world_size": ranks,
        "mp_world_size": 1,
        "ds_config": {},
        "ds_version": VERSION,
    }
    position = torch.arange(11)
    if stage == 3:
        module = OrderedDict((name, torch.empty(0, dtype=torch.bfloat16)) for name in values) | {"position": position}
        partitions = _stripes(values, ranks)
        for rank in range(ranks):
            torch.save({"module": module, **common}, folder / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt")
    else:
        module = OrderedDict((name, value.bfloat16()) for name, value in values.items()) | {"position": position}
        partitions = _cut(values, ranks)
        torch.save({"module": module, **common}, folder / "mp_rank_00_model_states.pt")
    for rank, partition in enumerate(partitions):
        state = {"zero_stage": stage, "partition_count": ranks if stage == 3 else [ranks], "ds_version": VERSION}
        key = "fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups"
        base = "optimizer_state_dict" if stage == 3 else "base_optimizer_state"
        kept = {"step": torch.tensor(float(step))}
        kept |= {"exp_avg": partition / 2, "exp_avg_sq": partition * partition} if moments else {}
        state |= {key: [partition], base: {"state": {0: kept}, "param_groups": []}}
        torch.save(
            {"optimizer_state_dict": state, "ds_config": {}, "ds_version": VERSION},
            folder / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt",
        )
    (root / "latest").write_text(tag)
    return folder


def _cut(values: OrderedDict[str, torch.Tensor], ranks: int) -> list[torch.Tensor]:
    flat = torch.cat([value.reshape(-1) for value in values.values()])
    numel = -(-len(flat) // (2 * ranks)) * 2
    return [flat[rank * numel : (rank + 1) * numel].clone() for rank in range(ranks)]


def _stripes(values: OrderedDict[str, torch.Tensor], ranks: int) -> list[torch.Tensor]:
    stripes: list[list[torch.Tensor]] = [[] for _ in range(ranks)]
    for value in values.values():
        numel = -(-value.numel() // ranks)
        padded = torch.nn.functional.pad(value.reshape(-1), (0, ranks * numel - value.numel()))
        for rank in range(ranks):
            stripes[rank].append(padded[rank * numel : (rank + 1) * numel])
    return [torch.cat(parts) for parts in stripes]
