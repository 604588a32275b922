"""Fine-tunes with PEFT, as they are at the moment of saving: toy models with adapters that have been nudged.

The checkpoint is written in DeepSpeed's structure by `zero_model`, the truth is told by PEFT's own
`merge_and_unload()` and `save_pretrained()`. Nothing here is zeroconsolidate's.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import transformers
from peft import LoraConfig, PeftModel, TrainableTokensConfig, get_peft_model
from safetensors.torch import save_file
from torch import nn
from zero_model import Run, save

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from peft import PeftConfig

SIZES = {"vocab_size": 48, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
GQA = SIZES | {"num_key_value_heads": 2, "intermediate_size": 24}


def llama() -> nn.Module:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**GQA, tie_word_embeddings=False))


def qwen2() -> nn.Module:
    """Tied, and with biases in the attention."""
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**GQA, tie_word_embeddings=True))


def gpt2() -> nn.Module:
    """Conv1D: weights are [in, out]."""
    sizes = {"vocab_size": 48, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 32}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))


def mixtral() -> nn.Module:
    config = transformers.MixtralConfig(**GQA, num_local_experts=4, num_experts_per_tok=2)
    return transformers.MixtralForCausalLM(config)


def qwen3_moe() -> nn.Module:
    config = transformers.Qwen3MoeConfig(
        **GQA, head_dim=4, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8
    )
    return transformers.Qwen3MoeForCausalLM(config)


class Pictures(nn.Module):
    """Convolutions of every number of dimensions, one of them 1x1, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Conv1d(4, 6, 3)
        self.point = nn.Conv2d(3, 8, 1)
        self.plane = nn.Conv2d(8, 5, 3)
        self.space = nn.Conv3d(5, 4, 2)
        self.head = nn.Linear(4, 3)


def build(make: Callable[[], nn.Module], dtype: torch.dtype = torch.float32) -> nn.Module:
    """The same base model each time, first made in float32."""
    torch.manual_seed(0)
    model = make()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.to(dtype)


def adapted(base: nn.Module, configs: dict[str, PeftConfig]) -> PeftModel:
    """`base` with freshly made adapters."""
    names = list(configs)
    model = get_peft_model(base, copy.deepcopy(configs[names[0]]), adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, copy.deepcopy(configs[name]))
    return model


def adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """What was trained: the adapters of all names, active or not, and everything else that requires gradients."""
    adapters = [f".{name}" for name in model.peft_config]
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad or any(f"{a}." in name or name.endswith(a) for a in adapters)
    }


@dataclass
class Tuned:
    """A finished run: how to make its base, its adapters, and the values it reached."""

    make: Callable[[], nn.Module]
    configs: dict[str, PeftConfig]
    masters: dict[str, torch.Tensor]
    """Name -> float32."""
    model: PeftModel
    """The float32 model, masters in place."""

    def save(
        self,
        root: Path,
        *,
        stage: int,
        frozen: bool,
        dtype: torch.dtype,
        wrapper: str = "",
        called: Callable[[str], str] = str,
        state_dict_name: Callable[[str], str] = str,
    ) -> Path:
        """Write the checkpoint to `root`. `frozen`: with the base, in `dtype`. `called`: what wrappers of modules
        make of a parameter's name; `state_dict_name`: what becomes of that in the state dict."""
        names = dict(self.model.named_parameters(remove_duplicate=False))
        first: dict[int, str] = {}
        ties = {name: first[id(p)] for name, p in names.items() if first.setdefault(id(p), name) != name}
        own = {name for name in names if name not in ties}
        rest = {name: names[name].detach().to(dtype) for name in own if name not in self.masters}
        state = self.model.state_dict()
        buffers = {name: value for name, value in state.items() if name not in names}

        def named(name: str) -> str:
            return wrapper + called(name)

        run = Run(
            stage=stage,
            world_size=2,
            groups=[{named(n): v for n, v in self.masters.items()}],
            compute_dtype=dtype,
            frozen={named(n): v for n, v in rest.items()},
            buffers={named(n): v for n, v in buffers.items()},
            ties={named(a): named(n) for a, n in ties.items()},
            order=[named(n) for n in state],
            exclude_frozen=not frozen,
            state_dict_name=state_dict_name,
        )
        save(run, root)
        for name in self.configs:
            self.model.peft_config[name].save_pretrained(root if name == "default" else root / name)
        return root

    def save_base(self, folder: Path) -> Path:
        """The original model, in float32."""
        base = build(self.make)
        if hasattr(base, "save_pretrained"):
            base.save_pretrained(folder)
        else:
            folder.mkdir()
            save_file(base.state_dict(), folder / "model.safetensors")
        return folder

    def merged(self, dtype: torch.dtype, *, rounded_base: bool = False, adapters: list[str] | None = None) -> Any:
        """What PEFT makes of it in `dtype`; with `rounded_base`, of a base that was in bfloat16 before."""
        base = build(self.make)
        if rounded_base:
            base = base.to(torch.bfloat16)
        model = adapted(base.to(dtype), self.configs)
        own = dict(model.named_parameters())
        for name, value in self.masters.items():
            parameter = own[name]
            # PEFT keeps adapters in float32, and copies of the base's modules in the base's dtype.
            parameter.data = value.clone().to(parameter.dtype)
        trained = dict(self.model.named_buffers())
        for name, buffer in model.named_buffers():
            if any(f".{adapter}" in f"{name}." for adapter in self.configs):
                buffer.data = trained[name].clone().to(buffer.dtype)  # such as projections drawn when training began
        model.eval()
        return model.merge_and_unload(adapter_names=adapters)


def tune(make: Callable[[], nn.Module], **configs: PeftConfig) -> Tuned:
    """A run that has moved every trainable value."""
    model = adapted(build(make), configs)
    generator = torch.Generator().manual_seed(1)
    masters = {}
    with torch.no_grad():
        for name, parameter in adapter_parameters(model).items():
            nudge = torch.randn(parameter.shape, generator=generator) * 0.1
            parameter.copy_(parameter + nudge if "magnitude" not in name else parameter * (1 + 0.1 * nudge))
            masters[name] = parameter.detach().clone()
    return Tuned(make, configs, masters, model)


ATTENTION = ["q_proj", "v_proj", "down_proj"]
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


def lora(**settings: object) -> LoraConfig:
    return LoraConfig(**({"r": 4, "lora_alpha": 6, "target_modules": ATTENTION} | settings))


CASES: dict[str, tuple[Callable[[], nn.Module], PeftConfig]] = {
    "lora": (llama, lora()),
    "rslora": (llama, lora(use_rslora=True)),
    "patterns": (
        llama,
        lora(
            use_rslora=True,
            rank_pattern={"layers.0.self_attn.q_proj": 2, "down_proj": 8},
            alpha_pattern={r"layers\.1\..*": 3},
        ),
    ),
    "dora": (llama, lora(use_dora=True)),
    "lora_bias": (qwen2, lora(target_modules=["q_proj", "v_proj"], lora_bias=True)),
    "bias_all": (qwen2, lora(bias="all")),
    "bias_lora_only": (qwen2, lora(bias="lora_only")),
    "conv1d": (gpt2, lora(target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)),
    "conv1d_dora": (gpt2, lora(target_modules=["c_attn", "c_proj"], fan_in_fan_out=True, use_dora=True)),
    "conv1d_and_linear": (gpt2, lora(target_modules=["c_attn", "c_proj", "lm_head"], fan_in_fan_out=True)),
    "embedding": (llama, lora(target_modules=["embed_tokens", "q_proj"])),
    "embedding_dora": (llama, lora(target_modules=["embed_tokens", "q_proj"], use_dora=True)),
    "head": (llama, lora(target_modules=["lm_head", "q_proj"])),
    "tied_head": (qwen2, lora(target_modules=["lm_head", "q_proj"])),
    "tied_embedding": (qwen2, lora(target_modules=["embed_tokens", "q_proj"])),
    "modules_to_save": (llama, lora(modules_to_save=["lm_head", "embed_tokens"])),
    "modules_to_save_tied": (qwen2, lora(modules_to_save=["lm_head"])),
    "modules_to_save_tied_both": (qwen2, lora(modules_to_save=["lm_head"], ensure_weight_tying=True)),
    "tokens": (llama, lora(trainable_token_indices=[3, 40, 7])),
    "tokens_by_module": (llama, lora(trainable_token_indices={"embed_tokens": [3, 40], "lm_head": [1]})),
    "tokens_tied": (qwen2, lora(trainable_token_indices=[3, 40, 7])),
    "tokens_alone": (llama, TrainableTokensConfig(token_indices=[5, 2], target_modules=["embed_tokens"])),
    "tokens_alone_tied": (qwen2, TrainableTokensConfig(token_indices=[5, 2], target_modules=["embed_tokens"])),
    "experts_mixtral": (mixtral, lora(target_parameters=EXPERTS)),
    "experts_qwen3": (qwen3_moe, lora(target_parameters=EXPERTS, target_modules=["q_proj"])),
    "experts_one": (mixtral, lora(target_parameters=["mlp.experts.down_proj"], rank_pattern={"experts.down_proj": 2})),
    "matrix_parameter": (llama, lora(target_modules=[], target_parameters=["mlp.up_proj.weight"])),
    "mica": (llama, lora(init_lora_weights="mica")),
    "orthogonal": (llama, lora(init_lora_weights="orthogonal")),
    "convolutions": (Pictures, lora(target_modules=["line", "point", "plane", "space", "head"])),
    "convolutions_dora": (Pictures, lora(target_modules=["line", "point", "plane", "space"], use_dora=True)),
}


def differing(written: dict[str, torch.Tensor], truth: dict[str, torch.Tensor]) -> list[str]:
    """Names whose bits are not the same, or that are in one of them only."""
    return [
        name
        for name in sorted(written.keys() | truth.keys())
        if name not in written
        or name not in truth
        or written[name].dtype != truth[name].dtype
        or not torch.equal(written[name], truth[name])
    ]
