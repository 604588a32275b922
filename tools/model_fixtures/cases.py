"""The table of runs: one `Case` is one fine-tune whose checkpoint, true weights and true outputs become a fixture.

A case is named `<what>_z<stage>`. Everything that distinguishes two cases is a field here, so that the table can be
read as the list of what the converter is tested on.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

STEPS = 3
SEED = 1


@dataclass(frozen=True, kw_only=True)
class Case:
    """One training run.

    recipe: `causal` (Hugging Face Trainer) or the FlagEmbedding runner: `m3`, `embedder`, `llm_embedder`, `reranker`,
      `llm_reranker`.
    base: directory under `_bases` the run starts from.
    stage: ZeRO stage.
    bf16: train in bfloat16, else in float32.
    gather: `stage3_gather_16bit_weights_on_model_save`, which decides whether the Trainer writes weights under stage 3.
    adapter: keyword arguments of peft's `LoraConfig`; None trains every weight.
    flags: further FlagEmbedding command-line arguments.
    """

    name: str
    recipe: str
    base: str
    stage: int
    bf16: bool = True
    gather: bool = False
    adapter: dict[str, Any] | None = None
    flags: dict[str, Any] = field(default_factory=dict)


LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
# FlagEmbedding's decoder runners build the LoraConfig themselves, from these arguments.
FLAG_LORA = {"use_lora": True, "lora_rank": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"]}
UNIFIED = {
    "unified_finetuning": True,
    "use_self_distill": True,
    "self_distill_start_step": 0,
    "fix_encoder": False,
    "kd_loss_type": "m3_kd_loss",
}
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


def _stages(case: Case, **only_stage_3: Any) -> list[Case]:
    """`case` under ZeRO-2 and, with `only_stage_3` applied, under ZeRO-3."""
    return [
        replace(case, name=f"{case.name}_z2", stage=2),
        replace(case, name=f"{case.name}_z3", stage=3, **only_stage_3),
    ]


def _causal(name: str, base: str, adapter: dict[str, Any] | None = None, **fields: Any) -> Case:
    return Case(name=name, recipe="causal", base=base, stage=0, adapter=adapter, **fields)


def _flag(name: str, recipe: str, base: str, **fields: Any) -> Case:
    return Case(name=name, recipe=recipe, base=base, stage=0, **fields)


CASES: dict[str, Case] = {
    case.name: case
    for case in [
        # Every weight of a causal LM. Tied: `lm_head` is a second name of the embedding.
        *_stages(_causal("llm_tied", "qwen2"), gather=True),
        *_stages(_causal("llm_untied", "llama")),
        # Adapters. The Trainer leaves the frozen base out of the shards.
        *_stages(_causal("lora", "llama", LORA)),
        *_stages(
            _causal(
                "lora_patterns",
                "qwen2",
                LORA
                | {
                    "target_modules": ["q_proj", "v_proj", "down_proj"],
                    "use_rslora": True,
                    "rank_pattern": {"layers.0.self_attn.q_proj": 2},
                    "alpha_pattern": {"down_proj": 3},
                },
            )
        ),
        *_stages(_causal("lora_bias", "qwen2", LORA | {"lora_bias": True})),
        *_stages(_causal("dora", "llama", LORA | {"use_dora": True})),
        # Under ZeRO-3 in bf16 peft's adapters are float32 and the copied head is not, which DeepSpeed refuses to group.
        *_stages(_causal("lora_head", "llama", LORA | {"modules_to_save": ["lm_head"]}), bf16=False),
        *_stages(_causal("lora_tokens", "qwen2", LORA | {"trainable_token_indices": [7, 100, 260]})),
        # Experts: fused in memory by transformers 5, one matrix an expert in the hub's layout.
        *_stages(_causal("mixtral", "mixtral")),
        *_stages(_causal("qwen3_moe", "qwen3_moe")),
        *_stages(_causal("mixtral_lora", "mixtral", LORA)),
        *_stages(_causal("mixtral_lora_experts", "mixtral", LORA | {"target_parameters": EXPERTS})),
        *_stages(_causal("qwen3_moe_lora_experts", "qwen3_moe", LORA | {"target_parameters": EXPERTS})),
        # FlagEmbedding's own trainers. Unified BGE-M3 cannot train under ZeRO-3 in bf16: DeepSpeed wants one dtype a
        # group, and the two heads stay float32 beside a bf16 encoder.
        *_stages(_flag("m3", "m3", "xlmr", flags=UNIFIED), bf16=False),
        Case(name="m3_dense_only_z2", recipe="m3", base="xlmr", stage=2, flags={"unified_finetuning": False}),
        *_stages(_flag("embedder", "embedder", "xlmr"), gather=True),
        *_stages(_flag("reranker", "reranker", "xlmr")),
        *_stages(_flag("llm_embedder_lora", "llm_embedder", "qwen2", flags=FLAG_LORA)),
        *_stages(_flag("llm_reranker_lora", "llm_reranker", "llama", flags=FLAG_LORA)),
    ]
}


def deepspeed_config(case: Case) -> dict[str, Any]:
    """DeepSpeed's configuration for `case`; the optimizer is the Trainer's own AdamW, with its two parameter groups."""
    return {
        "zero_optimization": {
            "stage": case.stage,
            "stage3_gather_16bit_weights_on_model_save": case.gather,
            "stage3_param_persistence_threshold": 0,
            # Stage 3's own linear rounds once more before it adds the bias: its bf16 outputs are no reload's.
            "memory_efficient_linear": False,
        },
        "bf16": {"enabled": "auto"},
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def training_arguments(case: Case, output: str) -> dict[str, Any]:
    """Arguments every recipe shares, by their `TrainingArguments` names."""
    return {
        "output_dir": output,
        "deepspeed": "deepspeed.json",
        "per_device_train_batch_size": 2,
        "max_steps": STEPS,
        "save_steps": STEPS,
        "logging_steps": 1,
        # High, so that three steps move every weight well past the rounding of bfloat16.
        "learning_rate": 2e-2,
        "optim": "adamw_torch",
        "bf16": case.bf16,
        "seed": SEED,
        "report_to": "none",
    }
