"""PEFT's adapters: which are drawn for a model, and how they are put on it."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random

    from torch import nn

    from .models import Model

TASKS = {
    "causal": "CAUSAL_LM",
    "bare": "FEATURE_EXTRACTION",
    "classify": "SEQ_CLS",
    "tokens": "TOKEN_CLS",
    "answers": "QUESTION_ANS",
    "seq2seq": "SEQ_2_SEQ_LM",
    "pictures": "CAUSAL_LM",
}
"""Trained class -> task type; a class that is not here has none."""

SETTINGS: dict[str, dict[str, Any]] = {
    "LORA": {"r": 4, "lora_alpha": 6},
    "ADALORA": {"init_r": 4, "target_r": 2, "lora_alpha": 6, "total_step": 100},
    "IA3": {},
    "LOHA": {"r": 2, "alpha": 3},
    "LOKR": {"r": 2, "alpha": 3, "decompose_factor": 2},
    "OFT": {"r": 0, "oft_block_size": 8},
    "BOFT": {"boft_block_size": 4},
    "VERA": {"r": 4},
    "VBLORA": {"r": 2, "num_vectors": 8, "vector_length": 8, "topk": 2},
    "FOURIERFT": {"n_frequency": 10},
    "HRA": {"r": 2},
    "MISS": {"r": 2},
    "RANDLORA": {"r": 4},
    "C3A": {"block_size": 8},
    "ROAD": {"group_size": 4},
    "DELORA": {"r": 2},
    "GRALORA": {"r": 4, "gralora_k": 2},
    "LN_TUNING": {},
    "TRAINABLE_TOKENS": {"token_indices": [3, 40, 7]},
    "PROMPT_TUNING": {"num_virtual_tokens": 4},
    "P_TUNING": {"num_virtual_tokens": 4, "encoder_hidden_size": 8},
    "PREFIX_TUNING": {"num_virtual_tokens": 4},
    "SHIRA": {"r": 2},
    "UNILORA": {"r": 2, "theta_d_length": 32},
}
"""Kind -> arguments that suit tiny models."""
NO_CONV1D = ("SHIRA", "HRA", "MISS", "OFT", "BOFT", "C3A", "ROAD", "DELORA", "GRALORA", "LOHA", "LOKR")
"""Kinds that PEFT does not put on GPT-2's layers."""
UNWRITTEN = ("SHIRA", "UNILORA", "P_TUNING")
"""Kinds whose files cannot be made of a checkpoint."""
PROMPTS = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING")


def draw(rng: random.Random, model: Model, head: str) -> dict[str, Any] | None:
    """An adapter for the trained class of a model; more than half of all are LoRA."""
    kinds = [kind for kind in sorted(SETTINGS) if not (model.conv1d and kind in NO_CONV1D)]
    kinds = [kind for kind in kinds if head in TASKS or kind not in PROMPTS]
    kind = "LORA" if rng.random() < 0.55 else rng.choice(kinds)
    drawn: dict[str, Any] = {"kind": kind} | SETTINGS[kind]
    if rng.random() < 0.85 and head in TASKS:
        drawn["task_type"] = TASKS[head]
    if kind in PROMPTS:
        return drawn
    if kind == "TRAINABLE_TOKENS":
        return drawn | {"target_modules": [model.embedding or "embed_tokens"]}
    if kind == "LN_TUNING":
        return drawn | {"target_modules": list(model.norms)}
    targets = rng.sample(model.linear, rng.randint(1, len(model.linear)))
    drawn["target_modules"] = sorted(targets)
    if kind == "IA3":
        drawn["feedforward_modules"] = []
    if model.conv1d and kind in ("LORA", "IA3", "ADALORA", "VERA", "FOURIERFT"):
        drawn["fan_in_fan_out"] = True
    heads = [name for name in model.heads.get(head, ()) if name]
    saved = [name for name in (*heads, model.embedding) if name and rng.random() < 0.2]
    if saved:
        drawn["modules_to_save"] = saved
    if kind == "LORA":
        drawn |= _lora(rng, model, heads, saved)
    return drawn


def _lora(rng: random.Random, model: Model, heads: list[str], saved: list[str]) -> dict[str, Any]:
    drawn: dict[str, Any] = {}
    targets = []
    if model.embedding and model.embedding not in saved and rng.random() < 0.12:
        targets.append(model.embedding)
    targets += [name for name in heads if name not in saved and rng.random() < 0.1]
    if targets:
        drawn["extra_targets"] = targets
    elif model.embedding and model.embedding not in saved and rng.random() < 0.1:
        drawn["trainable_token_indices"] = [1, 5, 60]
    if model.experts and rng.random() < 0.4:
        drawn["target_parameters"] = list(model.experts)
    for setting, chance in (("use_rslora", 0.15), ("use_dora", 0.15), ("lora_bias", 0.05)):
        plain = setting != "use_rslora" and ("target_parameters" in drawn or "use_dora" in drawn)
        if rng.random() < chance and not plain:
            drawn[setting] = True
    if "lora_bias" not in drawn:
        drawn["bias"] = rng.choices(("none", "all", "lora_only"), (85, 8, 7))[0]
    if rng.random() < 0.1:
        drawn["rank_pattern"] = {model.linear[0]: 2}
        drawn["alpha_pattern"] = {model.linear[-1]: 3}
    if "target_parameters" not in drawn:
        ways = (True, "gaussian", "pissa", "olora", "orthogonal")
        drawn["init_lora_weights"] = True if "lora_bias" in drawn else rng.choices(ways, (80, 5, 5, 5, 5))[0]
    return drawn


def config(drawn: dict[str, Any]) -> Any:
    """PEFT's configuration."""
    import peft
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    arguments = copy.deepcopy(drawn)  # PEFT adds to some of it
    kind = peft.PeftType(arguments.pop("kind"))
    arguments["target_modules"] = [*arguments.get("target_modules", ()), *arguments.pop("extra_targets", ())]
    if not arguments["target_modules"]:
        del arguments["target_modules"]
    return PEFT_TYPE_TO_CONFIG_MAPPING[kind](**arguments)


def put_on(model: nn.Module, drawn: dict[str, Any], second: str) -> Any:
    """`model` under the adapter, and under another one of the same configuration if `second` names it."""
    import peft

    adapted = peft.get_peft_model(model, config(drawn))
    if second:
        adapted.add_adapter(second, config(drawn))
        for name, parameter in adapted.named_parameters():
            if f".{second}." in name or name.endswith(f".{second}"):
                parameter.requires_grad_(True)
    return adapted
