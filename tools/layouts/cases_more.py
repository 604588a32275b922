"""Cases that need a stand-in (`patches`), another program (ds_to_universal) or an older release."""

from __future__ import annotations

from typing import Any

from .case import Case

FROZEN = ("layers.1.down.weight", "layers.0.norm.bias")
MUON = {"optimizer": {"type": "Muon", "params": {"lr": 3e-3, "weight_decay": 0.01, "torch_adam": True}}}
CPU_ADAM = {"optimizer": {"type": "AdamW", "params": {"lr": 3e-3}}}
OFFLOAD: dict[str, Any] = {"offload_optimizer": {"device": "cpu"}}
ZENFLOW = {
    "topk_ratio": 0.2,
    "select_strategy": "step",
    "select_interval": 2,
    "update_interval": 2,
    "full_warm_up_rounds": 0,
    "overlap_step": False,
}

OFFLOADED = [
    Case(name="offload_z2", stage=2, zero=OFFLOAD, about="Optimizer on the CPU, stage 2: nothing changes on disk."),
    Case(name="offload_z3", stage=3, zero=OFFLOAD, about="Optimizer on the CPU, stage 3: nothing changes on disk."),
    Case(
        name="cpu_adam_z2",
        stage=2,
        optimizer="config",
        config=CPU_ADAM,
        patches=("python_operators",),
        zero=OFFLOAD,
        about="DeepSpeed's own CPU Adam: `step` is an int.",
    ),
    Case(
        name="zenflow_z2",
        stage=2,
        steps=4,
        optimizer="config",
        config=CPU_ADAM,
        patches=("python_operators",),
        zero={**OFFLOAD, "zenflow": ZENFLOW},
        witness=False,
        about="ZenFlow at stage 2: selected columns are updated in 16 bits, the masters follow at the next boundary.",
    ),
    Case(
        name="superoffload_z3",
        stage=3,
        optimizer="config",
        config=CPU_ADAM,
        zero={"offload_optimizer": {"device": "cpu", "ratio": 0.8, "super_offload": True, "cpuadam_cores_perc": 0.5}},
        patches=("python_operators", "superoffload_on_cpu"),
        about="SuperOffload: the masters live in a worker process.",
    ),
    Case(
        name="nvme_z3",
        stage=3,
        config={"aio": {"block_size": 1024, "intra_op_parallelism": 1}},
        zero={"offload_optimizer": {"device": "nvme", "nvme_path": "swap"}, "sub_group_size": 300},
        patches=("python_operators", "small_swap_files"),
        about="Optimizer on NVMe: a swapped sub-group is empty in the .pt file, its master is in offloaded_tensors.",
    ),
    Case(
        name="bf16_masters_z2",
        stage=2,
        masters="bf16",
        optimizer="config",
        patches=("python_operators",),
        config={
            **CPU_ADAM,
            "bf16": {"enabled": True, "bf16_master_weights_and_grads": True, "bf16_optimizer_states": True},
        },
        zero=OFFLOAD,
        about="Masters and moments in bf16, stage 2.",
    ),
    Case(
        name="bf16_masters_z3",
        stage=3,
        masters="bf16",
        optimizer="config",
        patches=("python_operators",),
        config={
            **CPU_ADAM,
            "bf16": {"enabled": True, "bf16_master_weights_and_grads": True, "bf16_optimizer_states": True},
        },
        zero=OFFLOAD,
        about="Masters and moments in bf16, stage 3.",
    ),
    Case(
        name="autocast_z2",
        stage=2,
        dtype="fp32",
        config={"torch_autocast": {"enabled": True, "dtype": "bfloat16"}},
        about="torch autocast: fp32 module, ordinary stage 2.",
    ),
]

MUONS = [
    Case(
        name=f"muon_z{stage}",
        stage=stage,
        optimizer="config",
        config=MUON,
        zero={"reduce_scatter": False},
        patches=("eager_muon",),
        about=f"Muon at stage {stage}: two optimizer groups for each group of the user.",
    )
    for stage in (1, 2, 3)
]

SHARD_GROUPS = [
    Case(
        name="hpz_z3",
        stage=3,
        world=4,
        zero={"zero_hpz_partition_size": 2},
        about="hpZ: secondary 16-bit partitions over half the world are not saved.",
    ),
    Case(
        name="zeropp_z3",
        stage=3,
        world=4,
        zero={"zero_hpz_partition_size": 2, "sub_group_size": 500, "stage3_param_persistence_threshold": 0},
        about="hpZ with several sub-groups and nothing persistent.",
    ),
    Case(
        name="mics_z3",
        stage=3,
        world=4,
        deepspeed="0.16.9",
        zero={"mics_shard_size": 2},
        model="mics",
        about="MiCS: two shard groups of two ranks, each with the whole model.",
    ),
]

MEGATRON = [
    Case(
        name="megatron_tp2_z1", stage=1, tp=2, model="megatron", about="Client-side tensor parallelism, patterns 0.2."
    ),
    Case(
        name="megatron_tp2_dp2_z1_fp16",
        stage=1,
        world=4,
        tp=2,
        dtype="fp16",
        model="megatron",
        about="Client-side tensor parallelism with two replicas, fp16.",
    ),
    Case(
        name="megatron_tp2_z0_fp32",
        stage=0,
        tp=2,
        dtype="fp32",
        model="megatron",
        about="Client-side tensor parallelism at stage 0 in fp32.",
    ),
    Case(
        name="megatron_tp2_bf16opt",
        stage=1,
        world=4,
        tp=2,
        model="megatron",
        config={"data_types": {"grad_accum_dtype": "fp32"}},
        about="Client-side tensor parallelism, BF16_Optimizer.",
    ),
    Case(
        name="megatron_tp2_pp2_z1",
        stage=1,
        world=4,
        tp=2,
        pp=2,
        model="megatron",
        about="Tensor and pipeline parallelism: layer_LL-model_TT files, padded vocabulary, averaged positions.",
    ),
    Case(
        name="megatron_tp2_pp2_z0",
        stage=0,
        world=4,
        tp=2,
        pp=2,
        model="megatron",
        about="Tensor and pipeline parallelism at stage 0, bf16.",
    ),
]

UNIVERSAL = [
    Case(
        name="universal_z1",
        stage=1,
        universal=("--inject_missing_state",),
        about="ds_to_universal over stage 1: dicts with cat_dim.",
    ),
    Case(
        name="universal_z2_inject",
        stage=2,
        universal=("--inject_missing_state",),
        frozen=FROZEN,
        about="ds_to_universal --inject_missing_state: fp32.pt for aliases, frozen parameters and buffers too.",
    ),
    Case(name="universal_z3", stage=3, universal=(), groups=True, about="ds_to_universal over stage 3: flat tensors."),
    Case(name="universal_z3_frozen", stage=3, universal=(), frozen=FROZEN, about="The same with frozen parameters."),
    Case(
        name="universal_tp2_z2",
        stage=2,
        world=4,
        tp=2,
        model="tensor",
        blocks=1,
        universal=(),
        about="ds_to_universal over AutoTP: merged, with sub-parameters.",
    ),
    Case(
        name="universal_pp2_z1",
        stage=1,
        world=4,
        pp=2,
        model="pipeline",
        universal=("--inject_missing_state",),
        about="ds_to_universal over a pipeline.",
    ),
    Case(
        name="universal_megatron_tp2_pp2",
        stage=1,
        world=4,
        tp=2,
        pp=2,
        model="megatron",
        universal=(),
        about="ds_to_universal over tensor and pipeline parallelism: vocab_tensor, cat_dim, sub-parameters.",
    ),
    Case(
        name="universal_autoep_z2",
        stage=2,
        ep=2,
        model="mixtral",
        blocks=1,
        optimizer="config",
        config={"optimizer": {"type": "AdamW", "params": {"lr": 3e-3, "torch_adam": True}}},
        universal=(),
        about="ds_to_universal over AutoEP.",
    ),
]


def old(version: str, stage: int, **more: Any) -> Case:
    name = f"ds{version.replace('.', '_')}_z{stage}" + ("_" + more.pop("suffix") if "suffix" in more else "")
    about = f"Stage {stage}, written by DeepSpeed {version}" + more.pop("note", "") + "."
    return Case(name=name, stage=stage, deepspeed=version, about=about, **more)


OLD = [
    old("0.9.5", 1, dtype="fp16", note=" in fp16"),
    old("0.9.5", 2, groups=True, note=", tie recorded nowhere but in the storages"),
    old("0.9.5", 3, frozen=FROZEN, note=", frozen parameters"),
    old(
        "0.3.16",
        1,
        dtype="fp16",
        optimizer="momentum",
        zero={"reduce_bucket_size": 400},
        note=": the first stage 1, groups cut into communication intervals of 400 elements",
    ),
    *(
        old(
            version,
            stage,
            dtype="fp16",
            # Releases before 0.5.5 cut every optimizer state, and newer torch's 0-d `step` of Adam cannot be cut.
            optimizer="momentum" if version in {"0.3.16", "0.4.5", "0.5.3"} and stage < 3 else "adamw",
            note=" in fp16, a GPU played by the CPU",
        )
        for version, stages in (
            ("0.3.16", (2, 3)),
            ("0.4.5", (2, 3)),
            ("0.5.3", (2,)),
            ("0.5.10", (1, 2, 3)),
            ("0.6.7", (2, 3)),
            ("0.8.3", (1, 3)),
        )
        for stage in stages
    ),
    old("0.10.3", 1, note=" in bf16"),
    old("0.10.3", 2, frozen=FROZEN, dtype="fp16", note=", frozen parameters"),
    old("0.10.3", 3, groups=True, note=", two groups"),
    old("0.12.6", 1, frozen=FROZEN, note=", frozen parameters"),
    old("0.12.6", 3, frozen=FROZEN, dtype="fp16", note=", frozen parameters, fp16"),
    old("0.14.4", 2, zero={"round_robin_gradients": True}, world=3, note=" with round robin, three ranks"),
    old("0.14.4", 3, note=", tied"),
    old("0.14.4", 1, suffix="pp2", world=4, pp=2, model="pipeline", note=" in a pipeline, dp 2"),
    old("0.14.4", 2, suffix="moe_ep2", world=4, ep=2, model="experts", note=", native MoE with replicas"),
    old("0.18.9", 1, suffix="tp2", tp=2, model="tensor", note=", AutoTP: patterns, no affine map"),
    old("0.19.5", 2, suffix="tp2", world=4, tp=2, model="tensor", note=", AutoTP: patterns, no affine map"),
    old("0.19.5", 3, suffix="tp2", world=4, tp=2, model="tensor", note=", AutoTP at stage 3"),
    old("0.16.9", 2, groups=True, frozen=FROZEN, note=", two groups, frozen parameters"),
    old("0.16.9", 3, zero={"sub_group_size": 500}, note=", several sub-groups"),
    old("0.16.9", 0, suffix="bf16opt", config={"data_types": {"grad_accum_dtype": "fp32"}}, note=" (BF16_Optimizer)"),
]

MORE = [*OFFLOADED, *MUONS, *SHARD_GROUPS, *MEGATRON, *UNIVERSAL, *OLD]
