"""Engines that resume from universal checkpoints of the layout fixtures: which, and whether they hold what was saved.

The engine that saved a fixture is gone; what it held is in the fixture. An engine of the same layout that loads the
fixture itself, as it is, goes on as that one would have.
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from . import ranks
from .assemble import assemble, equal
from .cases import CASES

if TYPE_CHECKING:
    from pathlib import Path

    from .case import Case

FP32_GRADIENTS = {"data_types": {"grad_accum_dtype": "fp32"}}

TARGETS: dict[str, list[dict[str, Any]]] = {
    "pp2_z1_bf16": [{}, {"world": 4}, {"pp": 1, "world": 1}, {"pp": 1, "world": 2}, {"config": FP32_GRADIENTS}],
    "pp2_z1_untied": [{}, {"pp": 3, "world": 3}],
    "tp2_z1": [{}, {"world": 4}, {"stage": 2}, {"stage": 3, "world": 4}, {"tp": 1, "world": 2}, {"tp": 4, "world": 4}],
    "tp2_z3_dp2": [{}, {"stage": 1, "world": 2}],
    "megatron_tp2_z1": [{}, {"world": 4}, {"tp": 1, "world": 2}, {"stage": 2}, {"config": FP32_GRADIENTS}],
    "megatron_tp2_pp2_z1": [{}, {"tp": 1, "world": 2}],
    "moe_ep2_z2": [{}, {"world": 4}, {"stage": 1}],
    "moe_ep1_z1": [{}, {"world": 4}],
    "moe_two_degrees_z1": [{}, {"world": 2}],
    "autoep_z2": [{}, {"world": 4}, {"ep": 1}, {"stage": 3}],
    "autoep_z3": [{}, {"stage": 1}],
    "z0_bf16_groups": [{"stage": stage} for stage in (1, 2, 3)] + [{"stage": 1, "config": FP32_GRADIENTS}],
    "z0_fp32_names": [{"stage": stage} for stage in (1, 2, 3)],
    "z0_fp16_fused": [{"stage": 2, "patches": ()}],
    "moe_ep2_z0_bf16": [{"stage": 1}],
    "tp2_z0_bf16": [{"stage": 2}],
    "nvme_z3": [{"zero": {}, "patches": ()}, {"stage": 2, "zero": {}, "patches": ()}],
    "cpu_adam_z2": [{}, {"stage": 3}],
    "bf16opt_z1_frozen_w3": [{"stage": 2, "world": 2, "config": {}}],
}
"""Fixture -> what is different in the engines that resume from it."""


def target(name: str, changes: dict[str, Any]) -> Case:
    """The engine that resumes."""
    case = dataclasses.replace(CASES[name], **changes)
    return dataclasses.replace(case, config={**case.config, "checkpoint": {"load_universal": True}})


def resumed(case: Case, universal: Path, out: Path, timeout: float) -> None:
    """Load a universal checkpoint into an engine, and leave in `out` what it holds and its next losses."""
    out.mkdir(parents=True)
    ranks.run(case, out, timeout, load=universal)


def went_on(name: str, checkpoint: Path, out: Path, timeout: float) -> None:
    """The same for the engine that saved, from its own checkpoint."""
    out.mkdir(parents=True)
    ranks.run(CASES[name], out, timeout, load=checkpoint)


def differences(case: Case, out: Path, fixture: Path) -> tuple[list[str], int]:
    """Parameters and moments that are not, bit for bit, those of the engine that saved; and how many there are."""
    found = assemble(case, out / "live")
    before: dict[str, torch.Tensor] = {}
    for expected in ("expected", "expected_moments"):
        saved = load_file(fixture / f"{expected}.safetensors")
        before |= {name: tensor for name, tensor in saved.items() if name not in found.buffers}
    after = {**found.weights, **found.moments}
    wrong = [name for name, tensor in before.items() if name not in after or not equal(after[name], tensor)]
    return wrong, len(before)


def facts(out: Path, world: int) -> list[dict[str, list[float]]]:
    """By rank: the optimizer's `steps` after loading, and the `losses` of further ones."""
    return [json.loads((out / f"went_on_{rank}.json").read_text()) for rank in range(world)]


def steps_apart(case: Case, out: Path, universal: Path) -> bool:
    """Whether a rank's optimizer counts otherwise than the universal checkpoint says."""
    saved = {float(torch.load(path, weights_only=True)) for path in universal.glob("*/zero/*/step.pt")}
    return any(set(of_rank["steps"]) - saved for of_rank in facts(out, case.world))
