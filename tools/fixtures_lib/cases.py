"""The table of fixtures: what each one trains and which trap of the format it holds."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass, field
from datetime import date
from pathlib import PurePosixPath
from typing import Any, Literal

DType = Literal["bf16", "fp16", "fp32"]


@dataclass(frozen=True, kw_only=True)
class EngineCase:
    """A bare DeepSpeed engine around `zoo.TinyLM`.

    name: folder under tests/fixtures.
    zero, config: what is added to `zero_optimization` and to the whole config.
    model: arguments of `zoo.TinyLM`.
    freeze: name prefixes of parameters that are not trained.
    groups: endings of parameter names, one per optimizer param group; a parameter joins the first group it fits.
    broadcast: whether rank 0's parameters are sent to the others at the start (`_shapes` says why not).
    client_state: what the user's script gives `save_checkpoint` to keep.
    """

    name: str
    description: str
    stage: int
    dtype: DType = "bf16"
    world_size: int = 2
    zero: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    freeze: tuple[str, ...] = ()
    exclude_frozen_parameters: bool = False
    groups: tuple[str, ...] = ("",)
    broadcast: bool = True
    client_state: dict[str, Any] = field(default_factory=dict)
    steps: int = 2
    seed: int = 1234

    @property
    def ds_config(self) -> dict[str, Any]:
        """The config deepspeed.initialize gets."""
        # By default ZeRO-3 keeps parameters below 100,000 elements whole on every rank, which here would be all.
        threshold = {"stage3_param_persistence_threshold": 0} if self.stage == 3 else {}
        precision = {
            "bf16": {"bf16": {"enabled": True}},
            # Scaling stays dynamic but starts low: at DeepSpeed's default of 2**16 the first steps would be skipped.
            "fp16": {"fp16": {"enabled": True, "initial_scale_power": 7}},
            "fp32": {},
        }
        return {
            "train_micro_batch_size_per_gpu": 2,
            "gradient_clipping": 1.0,
            "zero_optimization": {"stage": self.stage, **threshold, **self.zero},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            **precision[self.dtype],
            **self.config,
        }


@dataclass(frozen=True, kw_only=True)
class TrainerCase:
    """A Hugging Face Trainer fine-tune of a tiny chat model, in bf16."""

    name: str
    description: str
    stage: int
    dtype: DType = "bf16"
    world_size: int = 2
    steps: int = 3
    learning_rate: float = 3e-4
    seed: int = 1234
    packages: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FlagEmbeddingCase:
    """A FlagEmbedding BGE-M3 unified fine-tune of a tiny XLM-R, in bf16. Needs FlagEmbedding in the environment."""

    name: str
    description: str
    stage: int
    dtype: DType = "bf16"
    world_size: int = 2
    steps: int = 2
    learning_rate: float = 1e-3
    seed: int = 42
    packages: tuple[str, ...] = ("FlagEmbedding",)


Case = EngineCase | TrainerCase | FlagEmbeddingCase

STAGES = (1, 2, 3)
BY_KIND = (".weight", ".bias", ".scale")


def _every_stage(suffix: str, description: str, **settings: Any) -> list[EngineCase]:
    return [
        EngineCase(name=f"z{stage}_{suffix}", description=f"ZeRO-{stage}, {description}", stage=stage, **settings)
        for stage in STAGES
    ]


def _plain() -> list[EngineCase]:
    return [case for dtype in ("bf16", "fp16", "fp32") for case in _every_stage(dtype, f"plain {dtype}", dtype=dtype)]


def _frozen() -> list[EngineCase]:
    parts = ("layers.0.up", "layers.1.down", "layers.1.scale")
    return [
        *_every_stage("frozen", "some parameters frozen", freeze=parts),
        *_every_stage("frozen_tied", "the tied embedding frozen", freeze=("embed",)),
        *_every_stage(
            "exclude_frozen",
            "some parameters frozen and left out of the checkpoint",
            freeze=parts,
            exclude_frozen_parameters=True,
        ),
    ]


def _world() -> list[EngineCase]:
    return [
        *_every_stage("w1", "a single rank", world_size=1),
        *_every_stage("w3", "three ranks, which divide nothing evenly", world_size=3),
        *_every_stage("w4", "four ranks, one of which can be lost", world_size=4),
        # Here rank 10 would sort before rank 2 as text, and most parameters have fewer elements than there are ranks.
        *_every_stage("w12", "ranks 10 and 11", world_size=12, model={"layers": 1}),
        EngineCase(
            name="z2_w12_groups",
            description="a param group of one element over twelve ranks: eleven hold only padding",
            stage=2,
            world_size=12,
            model={"layers": 1},
            groups=BY_KIND,
        ),
    ]


def _groups() -> list[EngineCase]:
    small = {"sub_group_size": 60}
    return [
        *_every_stage("groups", "three optimizer param groups", groups=BY_KIND),
        EngineCase(name="z3_subgroups", description="ZeRO-3, many sub-groups", stage=3, zero=small),
        EngineCase(
            name="z3_subgroups_groups",
            description="ZeRO-3, param groups each cut into sub-groups, three ranks",
            stage=3,
            world_size=3,
            zero=small,
            groups=BY_KIND,
        ),
    ]


def _layout() -> list[EngineCase]:
    """Settings that move parameters about inside the flat buffers of ZeRO-1 and 2."""
    robin = {"round_robin_gradients": True}
    aligned = {"parameter_alignment": True}
    return [
        EngineCase(name="z1_round_robin", description="round-robin order in ZeRO-1", stage=1, zero=robin),
        EngineCase(name="z2_round_robin", description="parameters in round-robin order", stage=2, zero=robin),
        EngineCase(
            name="z2_round_robin_w3", description="round-robin order, three ranks", stage=2, world_size=3, zero=robin
        ),
        EngineCase(
            name="z2_round_robin_groups",
            description="round-robin order within each of three param groups",
            stage=2,
            zero=robin,
            groups=BY_KIND,
        ),
        EngineCase(
            name="z1_aligned_fp32",
            description="parameters padded to 16 bytes: 4 elements in fp32",
            stage=1,
            dtype="fp32",
            zero=aligned,
        ),
        EngineCase(
            name="z2_aligned", description="parameters padded to 16 bytes: 8 elements in bf16", stage=2, zero=aligned
        ),
        EngineCase(
            name="z2_aligned_round_robin_w3",
            description="padded and in round-robin order, three ranks",
            stage=2,
            world_size=3,
            zero=aligned | robin,
        ),
        EngineCase(
            name="z2_scattered_gradients",
            description="contiguous_gradients off",
            stage=2,
            zero={"contiguous_gradients": False},
        ),
        EngineCase(
            name="z2_elastic",
            description="elastic_checkpoint: the optimizer's state is a list over groups",
            stage=2,
            zero={"elastic_checkpoint": True},
        ),
    ]


def _placement() -> list[EngineCase]:
    """Settings that move tensors between memories, and must not show in the files' meaning."""
    host = {"device": "cpu"}
    return [
        EngineCase(
            name="z3_persistent",
            description="ZeRO-3, parameters below 50 elements kept whole on every rank",
            stage=3,
            zero={"stage3_param_persistence_threshold": 50},
        ),
        EngineCase(name="z2_offload", description="optimizer on the CPU", stage=2, zero={"offload_optimizer": host}),
        EngineCase(
            name="z3_offload",
            description="optimizer and parameters on the CPU",
            stage=3,
            zero={"offload_optimizer": host, "offload_param": host},
        ),
        EngineCase(
            name="z3_hpz",
            description="hpZ: a second partition over pairs of four ranks",
            stage=3,
            world_size=4,
            zero={"zero_hpz_partition_size": 2},
        ),
    ]


def _shapes() -> list[EngineCase]:
    """Shapes that ZeRO's arithmetic seldom meets.

    When the engine starts, DeepSpeed 0.19.8 views every parameter as bytes to broadcast it, and torch can do that
    neither for a scalar ("self.dim() cannot be 0 to view BFloat16 as Byte") nor for strides (1, ...). Releases before
    it could train both, so their checkpoints exist. All ranks start from one seed here, so leaving the broadcast out
    changes no value.
    """
    return [
        *_every_stage("scalar", "a parameter without dimensions", model={"scalar": True}, broadcast=False),
        *_every_stage("empty", "a parameter without elements", model={"empty": True}),
        # Trained, it is flattened and comes out contiguous; frozen, ZeRO-1 and 2 save it with its strides.
        *_every_stage("channels_last", "a parameter not contiguous", model={"channels_last": True}, broadcast=False),
        *_every_stage(
            "channels_last_frozen",
            "a frozen parameter not contiguous",
            model={"channels_last": True},
            freeze=("conv",),
            broadcast=False,
        ),
    ]


def _pickle() -> list[EngineCase]:
    return [
        EngineCase(
            name="z2_client_state",
            description="objects of other people's classes beside the weights",
            stage=2,
            client_state={"epoch": 3, "args": Namespace(lr=3e-3), "day": date(2026, 1, 31), "at": PurePosixPath("a/b")},
        ),
        EngineCase(
            name="z2_legacy",
            description="torch's container from before zip files, which DeepSpeed can still write",
            stage=2,
            config={"checkpoint": {"checkpoint_serialization": False}},
        ),
    ]


def _frameworks() -> list[TrainerCase | FlagEmbeddingCase]:
    return [
        TrainerCase(
            name="trainer_zero3_tied",
            description="Hugging Face Trainer, ZeRO-3 without 16-bit gathering: the weights are nowhere else",
            stage=3,
        ),
        TrainerCase(
            name="trainer_zero2_bf16",
            description="Hugging Face Trainer, ZeRO-2, with the model.safetensors it writes",
            stage=2,
        ),
        FlagEmbeddingCase(
            name="flagembedding_m3_zero2",
            description="FlagEmbedding BGE-M3 unified fine-tune, ZeRO-2: names carry its wrapper's prefix",
            stage=2,
        ),
    ]


CASES: dict[str, Case] = {
    case.name: case
    for family in (_plain, _frozen, _world, _groups, _layout, _placement, _shapes, _pickle, _frameworks)
    for case in family()
}
