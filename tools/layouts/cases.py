"""Every checkpoint that a CPU can train, by family."""

from __future__ import annotations

from typing import Any

from .case import Case
from .cases_more import FROZEN, MORE
from .cases_writers import WRITERS

FP32_GRADIENTS = {"data_types": {"grad_accum_dtype": "fp32"}}
ALIGNED = {"parameter_alignment": True}
ROUND_ROBIN = {"round_robin_gradients": True}
ELASTIC = {"elastic_checkpoint": True}
ADAM: dict[str, Any] = {"optimizer": {"type": "AdamW", "params": {"lr": 3e-3, "torch_adam": True}}}


STAGE_0 = [
    Case(name="z0_bf16", stage=0, about="Stage 0 in bf16: unnamed fp32 masters in the model file."),
    Case(name="z0_fp16", stage=0, dtype="fp16", about="Stage 0 in fp16, unfused wrapper, static loss scale."),
    Case(name="z0_fp32", stage=0, dtype="fp32", about="Stage 0 in fp32: the module is the master; tied, with buffers."),
    Case(
        name="z0_bf16_groups",
        stage=0,
        groups=True,
        frozen=FROZEN,
        tied=False,
        about="Stage 0 in bf16, two parameter groups, frozen parameters: masters in group order, not module order.",
    ),
    Case(
        name="z0_fp16_fused",
        stage=0,
        dtype="fp16",
        groups=True,
        patches=("fused_adam",),
        about="Stage 0 in fp16 with a fused Adam: fp32_groups_flat, one flat master a group.",
    ),
    Case(
        name="z0_fp16_dynamic",
        stage=0,
        world=1,
        dtype="fp16",
        config={"fp16": {"enabled": True, "initial_scale_power": 4}},
        about="Stage 0 in fp16 on one rank, dynamic loss scale.",
    ),
    Case(
        name="z0_fp32_names",
        stage=0,
        dtype="fp32",
        optimizer="adamw_named",
        frozen=FROZEN,
        about="Stage 0 in fp32, the optimizer given `named_parameters()`: param groups have names.",
    ),
    Case(name="z0_fp32_groups", stage=0, dtype="fp32", groups=True, frozen=FROZEN, about="Stage 0, fp32, two groups."),
]

BF16_OPTIMIZER = [
    Case(
        name="bf16opt_z1",
        stage=1,
        config=FP32_GRADIENTS,
        groups=True,
        about="BF16_Optimizer (bf16 with fp32 gradient accumulation at stage 1): no zero_stage key.",
    ),
    Case(
        name="bf16opt_z1_frozen_w3",
        stage=1,
        world=3,
        config=FP32_GRADIENTS,
        frozen=FROZEN,
        groups=True,
        tied=False,
        about="BF16_Optimizer, three ranks, two groups, frozen parameters.",
    ),
]

FLAT_GROUPS = [
    Case(name="z1_elastic", stage=1, zero=ELASTIC, groups=True, about="Elastic: moments as a list over groups."),
    Case(name="z2_elastic_w3", stage=2, world=3, zero=ELASTIC, about="elastic_checkpoint at stage 2, three ranks."),
    Case(name="z2_align", stage=2, zero=ALIGNED, about="Pads after each parameter, to 16 bytes of the compute dtype."),
    Case(name="z1_align_fp32", stage=1, dtype="fp32", zero=ALIGNED, about="parameter_alignment in fp32: 4 elements."),
    Case(name="z2_rr_w3", stage=2, world=3, zero=ROUND_ROBIN, about="Round robin: groups in shuffled order."),
    Case(
        name="z2_rr_groups_noncontiguous",
        stage=2,
        zero={**ROUND_ROBIN, "contiguous_gradients": False},
        groups=True,
        about="Round robin with two groups, gradients not contiguous.",
    ),
    Case(
        name="z2_align_rr_w3",
        stage=2,
        world=3,
        zero={**ALIGNED, **ROUND_ROBIN},
        frozen=FROZEN,
        about="parameter_alignment and round robin together, frozen parameters.",
    ),
    Case(
        name="z1_align_noncontiguous",
        stage=1,
        zero={**ALIGNED, "contiguous_gradients": False},
        about="parameter_alignment at stage 1, gradients not contiguous.",
    ),
]

PIPELINES = [
    Case(name="pp2_z1_bf16", stage=1, world=2, pp=2, model="pipeline", about="Two stages, tied, bf16, stage 1."),
    Case(name="pp2_z1_dp2", stage=1, world=4, pp=2, model="pipeline", about="Two stages times two replicas, tied."),
    Case(name="pp2_z1_fp16", stage=1, world=4, pp=2, model="pipeline", dtype="fp16", about="Pipeline in fp16, dp 2."),
    Case(name="pp2_z1_fp32", stage=1, world=2, pp=2, model="pipeline", dtype="fp32", about="Pipeline in fp32."),
    Case(
        name="pp2_z1_bf16opt",
        stage=1,
        world=4,
        pp=2,
        model="pipeline",
        config=FP32_GRADIENTS,
        about="Pipeline with BF16_Optimizer at stage 1, dp 2.",
    ),
    Case(name="pp2_z1_untied", stage=1, world=2, pp=2, model="pipeline", tied=False, about="Pipeline without a tie."),
    Case(
        name="pp2_z1_frozen",
        stage=1,
        world=2,
        pp=2,
        model="pipeline",
        frozen=("1.down.weight", "3.norm.bias"),
        about="Frozen parameters in a pipeline: only in the layer files.",
    ),
    Case(name="pp2_z0_bf16", stage=0, world=2, pp=2, model="pipeline", about="Stage 0, bf16: no param_shapes."),
    Case(name="pp2_z0_dp2", stage=0, world=4, pp=2, model="pipeline", about="Stage 0, bf16, dp 2."),
    Case(
        name="pp2_z0_dp2_untied",
        stage=0,
        world=4,
        pp=2,
        model="pipeline",
        tied=False,
        about="Stage 0, bf16, dp 2, untied.",
    ),
    Case(name="pp2_z0_fp16", stage=0, world=2, pp=2, model="pipeline", dtype="fp16", about="Stage 0, fp16."),
    Case(name="pp2_z0_fp32", stage=0, world=2, pp=2, model="pipeline", dtype="fp32", about="Stage 0, fp32."),
    Case(name="pp2_z0_fp32_dp2", stage=0, world=4, pp=2, model="pipeline", dtype="fp32", about="Stage 0, fp32, dp 2."),
]

EXPERTS = [
    Case(name="moe_ep1_z1", stage=1, ep=1, model="experts", about="Native MoE, every rank has every expert."),
    Case(name="moe_ep2_z2", stage=2, ep=2, model="experts", about="Native MoE, two expert ranks, stage 2."),
    Case(name="moe_ep2_dp4_z1", stage=1, world=4, ep=2, model="experts", about="Two replicas of each expert rank."),
    Case(name="moe_ep2_dp4_z2", stage=2, world=4, ep=2, model="experts", about="The same at stage 2."),
    Case(
        name="moe_ep2_dp4_z1_fp16",
        stage=1,
        world=4,
        ep=2,
        model="experts",
        dtype="fp16",
        about="Expert replicas, fp16.",
    ),
    Case(
        name="moe_ep2_dp4_z2_rr",
        stage=2,
        world=4,
        ep=2,
        model="experts",
        zero=ROUND_ROBIN,
        about="Expert replicas with round robin.",
    ),
    Case(
        name="moe_ep2_dp4_z2_align",
        stage=2,
        world=4,
        ep=2,
        model="experts",
        zero=ALIGNED,
        about="Expert replicas with parameter_alignment.",
    ),
    Case(name="moe_ep4_z1", stage=1, world=4, ep=4, model="experts", about="One expert a rank."),
    Case(
        name="moe_residual_ep2_z2",
        stage=2,
        ep=2,
        model="experts",
        residual=True,
        about="Residual MoE: a dense MLP and a coefficient beside the experts.",
    ),
    Case(
        name="moe_two_degrees_z1",
        stage=1,
        world=4,
        ep=2,
        model="two_degrees",
        about="Two mixtures a block, of expert-parallel degree 1 and 2: two expert groups.",
    ),
    Case(name="moe_ep2_z0_fp32", stage=0, ep=2, model="experts", dtype="fp32", about="expp_rank files, fp32."),
    Case(name="moe_ep2_z0_bf16", stage=0, ep=2, model="experts", about="expp_rank files, bf16."),
    Case(name="moe_ep2_dp4_z0_fp16", stage=0, world=4, ep=2, model="experts", dtype="fp16", about="expp_rank, fp16."),
]

TENSOR_PARALLEL = [
    Case(name="tp2_z0_bf16", stage=0, tp=2, model="tensor", about="AutoTP at stage 0 in bf16."),
    Case(name="tp2_z0_fp32", stage=0, tp=2, model="tensor", dtype="fp32", about="AutoTP at stage 0 in fp32."),
    Case(name="tp2_z1", stage=1, tp=2, model="tensor", about="AutoTP, row, column, fused and sub-parameters."),
    Case(name="tp2_z1_fp32", stage=1, tp=2, model="tensor", dtype="fp32", about="The same in fp32."),
    Case(name="tp2_z1_dp2", stage=1, world=4, tp=2, model="tensor", about="AutoTP with two replicas, stage 1."),
    Case(name="tp2_z2_dp2", stage=2, world=4, tp=2, model="tensor", about="AutoTP with two replicas, stage 2."),
    Case(
        name="tp2_z2_rr_dp2", stage=2, world=4, tp=2, model="tensor", zero=ROUND_ROBIN, about="AutoTP and round robin."
    ),
    Case(name="tp2_z3_dp2", stage=3, world=4, tp=2, model="tensor", about="AutoTP with two replicas, stage 3."),
    Case(name="tp2_bf16opt", stage=1, tp=2, model="tensor", config=FP32_GRADIENTS, about="AutoTP, BF16_Optimizer."),
    Case(
        name="tp3_z1_uneven",
        stage=1,
        world=3,
        tp=3,
        model="uneven",
        drift=True,
        about="Widths that 3 does not divide; the model lets replicated parameters drift apart.",
    ),
    Case(
        name="tp3_z3_uneven",
        stage=3,
        world=3,
        tp=3,
        model="uneven",
        drift=True,
        about="The same at stage 3.",
    ),
]

AUTO_EXPERTS = [
    Case(name=f"autoep_z{stage}", stage=stage, ep=2, model="mixtral", optimizer="config", config=ADAM, about=about)
    for stage, about in ((1, "AutoEP, stage 1."), (2, "AutoEP, stage 2."), (3, "AutoEP, stage 3."))
] + [
    Case(
        name=f"autoep_z{stage}_dp4",
        stage=stage,
        world=4,
        ep=2,
        model="mixtral",
        optimizer="config",
        config=ADAM,
        about=f"AutoEP, two replicas of each expert rank, stage {stage}.",
    )
    for stage in (1, 3)
]

OPTIMIZERS = [
    Case(name="momentum_z2", stage=2, optimizer="momentum", about="SGD with momentum: momentum_buffer."),
    Case(name="sgd_z1", stage=1, optimizer="sgd", about="Plain SGD: no state at all."),
    Case(name="adagrad_z2", stage=2, optimizer="adagrad", about="Adagrad: sum."),
    Case(name="amsgrad_z2", stage=2, optimizer="amsgrad", about="AMSGrad: max_exp_avg_sq."),
    Case(name="amsgrad_z3", stage=3, optimizer="amsgrad", groups=True, about="AMSGrad at stage 3, two groups."),
    Case(name="adafactor_z3", stage=3, optimizer="adafactor", about="Adafactor: variance of a flat partition."),
    Case(name="adafactor_z2", stage=2, optimizer="adafactor", about="Adafactor at stage 2."),
    *(
        Case(
            name=f"adamw_8bit_z{stage}",
            stage=stage,
            optimizer="adamw_8bit",
            moments=False,
            patches=("blockwise_adam",),
            about=f"bitsandbytes' 8-bit AdamW at stage {stage}: moments in bytes, with a scale for each 256 of them.",
        )
        for stage in (2, 3)
    ),
]

CASES: dict[str, Case] = {
    case.name: case
    for family in (
        STAGE_0,
        BF16_OPTIMIZER,
        FLAT_GROUPS,
        WRITERS,
        PIPELINES,
        EXPERTS,
        TENSOR_PARALLEL,
        AUTO_EXPERTS,
        OPTIMIZERS,
        MORE,
    )
    for case in family
}
