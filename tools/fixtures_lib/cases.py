"""The table of fixtures: what each one trains and which trap of the format it holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

DType = Literal["bf16", "fp16", "fp32"]


@dataclass(frozen=True, kw_only=True)
class EngineCase:
    """A bare DeepSpeed engine around `zoo.TinyLM`.

    name: folder under tests/fixtures. zero: what is added to `zero_optimization`. model: arguments of `zoo.TinyLM`.
    freeze: name prefixes of parameters that are not trained. groups: how many optimizer param groups they are dealt to.
    """

    name: str
    description: str
    stage: int
    dtype: DType = "bf16"
    world_size: int = 2
    zero: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    freeze: tuple[str, ...] = ()
    exclude_frozen_parameters: bool = False
    groups: int = 1
    steps: int = 2
    seed: int = 1234

    @property
    def ds_config(self) -> dict[str, Any]:
        config: dict[str, Any] = {
            "train_micro_batch_size_per_gpu": 2,
            "gradient_clipping": 1.0,
            "zero_optimization": {"stage": self.stage, **self.zero},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
        }
        if self.dtype == "bf16":
            config["bf16"] = {"enabled": True}
        elif self.dtype == "fp16":
            config["fp16"] = {"enabled": True, "loss_scale": 128}  # static: a dynamic one starts by skipping steps
        return config


def _engine_cases() -> list[EngineCase]:
    cases = [
        EngineCase(name=f"z{stage}_{dtype}", description=f"plain ZeRO-{stage} in {dtype}", stage=stage, dtype=dtype)
        for dtype in ("bf16", "fp16", "fp32")
        for stage in (1, 2, 3)
    ]
    return cases


CASES: dict[str, EngineCase] = {case.name: case for case in _engine_cases()}
