"""What a layout case is: everything that decides which bytes DeepSpeed puts on disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One training job, saved once."""

    name: str
    about: str
    """One sentence for provenance.json: what is special about this checkpoint."""
    stage: int
    world: int = 2
    """Processes, all on this machine."""
    dtype: str = "bf16"
    """Compute dtype: bf16, fp16 or fp32."""
    model: str = "net"
    """A key of `models.BUILDERS`."""
    blocks: int = 2
    """Layers of the net."""
    optimizer: str = "adamw"
    """A client optimizer of `jobs.OPTIMIZERS`; "config" when the DeepSpeed config names it."""
    groups: bool = False
    """Matrices and vectors in two parameter groups, the second without weight decay."""
    tied: bool = True
    """The output head is the embedding."""
    frozen: tuple[str, ...] = ()
    """Names of parameters that do not train."""
    tp: int = 1
    pp: int = 1
    ep: int = 1
    """Tensor-parallel, pipeline and expert-parallel degrees."""
    residual: bool = False
    """Residual MoE: a dense MLP beside the experts."""
    zero: Mapping[str, Any] = field(default_factory=dict)
    """Additions to `zero_optimization`."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Additions to the DeepSpeed config."""
    client_state: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 3
    drift: bool = False
    """Tensor-parallel replicas are expected to differ; expected values are those of tp rank 0."""
    masters: str = "fp32"
    """Dtype of the optimizer's own copy of the weights."""
    universal: tuple[str, ...] | None = None
    """Arguments of `ds_to_universal` when its output is the fixture, None when the checkpoint itself is."""
    deepspeed: str | None = None
    """The release to train with, None for the one installed."""
    save: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of `save_checkpoint`."""
    moments: bool = True
    """False where the live optimizer state cannot be attributed to parameters."""
    witness: bool = True
    """False where the optimizer lets the 16-bit weights run ahead of the masters on purpose."""
    patches: tuple[str, ...] = ()
    """Names of `patches.PATCHES`: what this machine lacks and how the job does without."""

    @property
    def dp(self) -> int:
        """Data-parallel width."""
        return self.world // (self.tp * self.pp)


def ds_config(case: Case) -> dict[str, Any]:
    """The DeepSpeed configuration of a case."""
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 2,
        "gradient_clipping": 1.0,
        "zero_optimization": {"stage": case.stage, **case.zero},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    if case.dtype == "bf16":
        config["bf16"] = {"enabled": True}
    if case.dtype == "fp16":
        config["fp16"] = {"enabled": True, "loss_scale": 128}
    if case.pp > 1:
        config["gradient_accumulation_steps"] = 2
    return {**config, **case.config}
