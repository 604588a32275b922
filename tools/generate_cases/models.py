"""Tiny models: which architectures there are, which classes of each are trained from which, and their parts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Mapping

VOCABULARY = 64
LABELS = 3
LABELLED = ("classify", "tokens")
"""Classes with a label for a text, or for each token."""
_SIZES = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
_DECODER = _SIZES | {"intermediate_size": 24, "max_position_embeddings": 32}
_GROUPED = _DECODER | {"num_key_value_heads": 1}
_VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
           "image_size": 8, "patch_size": 4, "projection_dim": 16}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Model:
    """One architecture."""

    config: str
    """Name of transformers' configuration class; empty for plain torch."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    classes: Mapping[str, str] = field(default_factory=dict)
    """Head -> name of transformers' class."""
    pairs: tuple[tuple[str, str], ...]
    """(class of the original, trained class)."""
    linear: tuple[str, ...] = ()
    """Linear layers that adapters may target, by the end of their names."""
    norms: tuple[str, ...] = ()
    embedding: str = ""
    """The input embedding, by the end of its name."""
    heads: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Trained class -> modules that are its head."""
    experts: tuple[str, ...] = ()
    """Parameters that `target_parameters` may name."""
    beside: tuple[str, ...] = ()
    """Ends of names of modules that are sometimes trained beside an adapter."""
    ties: bool = False
    """Whether `tie_word_embeddings` means something."""
    conv1d: bool = False


def _decoder(name: str, *, heads: bool = True, **changes: Any) -> Model:
    classes = {"causal": f"{name}ForCausalLM", "bare": f"{name}Model"}
    if heads:
        classes |= {"classify": f"{name}ForSequenceClassification", "tokens": f"{name}ForTokenClassification"}
    pairs = [("causal", "causal"), ("causal", "causal"), ("causal", "bare"), ("bare", "bare")]
    pairs += [("causal", "classify"), ("causal", "tokens")] if heads else []
    return Model(
        **{
            "config": f"{name}Config", "settings": _GROUPED, "classes": classes, "pairs": tuple(pairs),
            "linear": ("q_proj", "v_proj", "down_proj", "o_proj"), "norms": ("input_layernorm",),
            "embedding": "embed_tokens", "ties": True, "beside": ("norm", "layers.1.mlp.up_proj"),
            "heads": {"causal": ("lm_head",), "classify": ("score",), "tokens": ("score",)},
        } | changes
    )  # fmt: skip


def _encoder(name: str, **changes: Any) -> Model:
    classes = {
        "bare": f"{name}Model",
        "masked": f"{name}ForMaskedLM",
        "classify": f"{name}ForSequenceClassification",
        "tokens": f"{name}ForTokenClassification",
        "answers": f"{name}ForQuestionAnswering",
    }
    pairs = (("bare", "bare"), ("masked", "bare"), ("masked", "masked"), ("masked", "classify"), ("bare", "classify"),
             ("masked", "tokens"), ("bare", "answers"), ("classify", "classify"))  # fmt: skip
    return Model(
        **{
            "config": f"{name}Config", "settings": _DECODER | {"type_vocab_size": 2}, "classes": classes,
            "pairs": pairs, "linear": ("query", "value", "intermediate.dense"), "norms": ("output.LayerNorm",),
            "embedding": "word_embeddings", "ties": True, "beside": ("embeddings.LayerNorm",),
            "heads": {"classify": ("classifier",), "tokens": ("classifier",), "answers": ("qa_outputs",)},
        } | changes
    )  # fmt: skip


MODELS: dict[str, Model] = {
    "llama": _decoder("Llama"),
    "mistral": _decoder("Mistral"),
    "qwen2": _decoder("Qwen2"),
    "gemma2": _decoder("Gemma2", settings=_GROUPED | {"head_dim": 8}),
    "phi3": _decoder(
        "Phi3", settings=_GROUPED | {"pad_token_id": 0}, linear=("qkv_proj", "down_proj"), beside=("norm",)
    ),
    "mixtral": _decoder(
        "Mixtral",
        settings=_GROUPED | {"num_local_experts": 2, "num_experts_per_tok": 1},
        linear=("q_proj", "v_proj"),
        beside=("norm",),
        experts=("mlp.experts.gate_up_proj", "mlp.experts.down_proj"),
    ),
    "qwen3_moe": _decoder(
        "Qwen3Moe",
        settings=_GROUPED | {"head_dim": 8, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8},
        linear=("q_proj", "v_proj"),
        beside=("norm",),
        experts=("mlp.experts.gate_up_proj", "mlp.experts.down_proj"),
    ),
    "gpt2": _decoder(
        "GPT2",
        config="GPT2Config",
        conv1d=True,
        linear=("c_attn", "c_proj"),
        norms=("ln_1",),
        settings={"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32},
        classes={
            "causal": "GPT2LMHeadModel",
            "bare": "GPT2Model",
            "classify": "GPT2ForSequenceClassification",
            "tokens": "GPT2ForTokenClassification",
        },
        embedding="wte",
        beside=("ln_f",),
        heads={"causal": ("lm_head",), "classify": ("score",), "tokens": ("classifier",)},
    ),
    "bloom": _decoder(
        "Bloom",
        settings={"vocab_size": VOCABULARY, "hidden_size": 16, "n_layer": 2, "n_head": 2},
        linear=("query_key_value", "dense_h_to_4h"),
        embedding="word_embeddings",
        beside=("ln_f",),
        heads={"causal": ("lm_head",), "classify": ("score",), "tokens": ("classifier",)},
    ),
    "bert": _encoder("Bert"),
    "xlm_roberta": _encoder("XLMRoberta", settings=_DECODER | {"type_vocab_size": 1, "max_position_embeddings": 34}),
    "electra": _encoder(
        "Electra",
        settings=_DECODER | {"embedding_size": 16},
        pairs=(("bare", "bare"), ("bare", "classify"), ("masked", "masked"), ("bare", "answers")),
    ),
    "modernbert": _encoder(
        "ModernBert",
        linear=("Wqkv", "Wo"),
        norms=("mlp_norm",),
        embedding="tok_embeddings",
        settings=_DECODER
        | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2},
        beside=("final_norm",),
        heads={"classify": ("head", "classifier"), "tokens": ("head", "classifier"), "answers": ("head", "classifier")},
    ),
    "t5": Model(
        config="T5Config",
        settings={"vocab_size": VOCABULARY, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2},
        classes={"seq2seq": "T5ForConditionalGeneration", "bare": "T5EncoderModel"},
        pairs=(("seq2seq", "seq2seq"), ("seq2seq", "seq2seq"), ("seq2seq", "bare")),
        linear=("q", "v", "wo"),
        norms=("layer_norm",),
        embedding="shared",
        ties=True,
        heads={"seq2seq": ("lm_head",)},
        beside=("final_layer_norm",),
    ),
    "bart": Model(
        config="BartConfig",
        settings={
            "vocab_size": VOCABULARY,
            "d_model": 16,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 24,
            "decoder_ffn_dim": 24,
            "max_position_embeddings": 32,
        },
        classes={
            "seq2seq": "BartForConditionalGeneration",
            "bare": "BartModel",
            "classify": "BartForSequenceClassification",
        },
        pairs=(("seq2seq", "seq2seq"), ("bare", "bare"), ("seq2seq", "classify")),
        linear=("q_proj", "v_proj", "fc1"),
        norms=("final_layer_norm",),
        embedding="shared",
        heads={"seq2seq": ("lm_head",), "classify": ("classification_head",)},
    ),
    "llava": Model(
        config="LlavaConfig",
        classes={"pictures": "LlavaForConditionalGeneration", "bare": "LlavaModel"},
        settings={
            "text_config": _GROUPED | {"model_type": "llama"},
            "image_token_index": 60,
            "vision_config": _VISION | {"model_type": "clip_vision_model"},
        },
        pairs=(("pictures", "pictures"), ("pictures", "pictures"), ("pictures", "bare")),
        linear=("q_proj", "v_proj"),
        norms=("input_layernorm",),
        embedding="embed_tokens",
        heads={"pictures": ("lm_head",)},
        beside=("multi_modal_projector",),
        ties=True,
    ),
    "qwen2_vl": Model(
        config="Qwen2VLConfig",
        classes={"pictures": "Qwen2VLForConditionalGeneration", "bare": "Qwen2VLModel"},
        settings={
            "text_config": _GROUPED
            | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}},
            "image_token_id": 60,
            "vision_config": {
                "embed_dim": 16,
                "depth": 1,
                "num_heads": 2,
                "hidden_size": 16,
                "mlp_ratio": 2,
                "patch_size": 4,
            },
        },
        pairs=(("pictures", "pictures"),),
        linear=("q_proj", "v_proj"),
        norms=("input_layernorm",),
        embedding="embed_tokens",
        heads={"pictures": ("lm_head",)},
        beside=("merger.ln_q",),
        ties=True,
    ),
    "vit": Model(
        config="ViTConfig",
        settings={key: _VISION[key] for key in _VISION if key != "projection_dim"},
        classes={"bare": "ViTModel", "classify": "ViTForImageClassification"},
        pairs=(("bare", "bare"), ("bare", "classify"), ("classify", "classify")),
        linear=("q_proj", "v_proj"),
        norms=("layernorm_before",),
        heads={"classify": ("classifier",)},
        beside=("layernorm",),
    ),
    "layers": Model(config="", pairs=(("plain", "plain"),), linear=("up", "down"), norms=("norm",)),
    "loop": Model(config="", pairs=(("plain", "plain"),), linear=("up", "down"), norms=("norm",)),
    "flat": Model(config="", pairs=(("plain", "plain"),)),
}
NAMES = tuple(name for name, model in MODELS.items() if model.config)
PLAIN = tuple(name for name, model in MODELS.items() if not model.config)


def make(name: str, head: str, *, tied: bool) -> nn.Module:
    """A new model, in float32."""
    model = MODELS[name]
    if not model.config:
        return {"layers": Layers, "loop": Loop, "flat": Flat}[name]()
    import transformers

    settings: dict[str, Any] = dict(model.settings)
    if model.ties:
        settings["tie_word_embeddings"] = tied
        if isinstance(settings.get("text_config"), dict):
            settings["text_config"] = settings["text_config"] | {"tie_word_embeddings": tied}
    if head in LABELLED:
        settings["num_labels"] = LABELS
    config = getattr(transformers, model.config)(**settings)
    made: nn.Module = getattr(transformers, model.classes[head])(config)
    return made


class Block(nn.Module):
    """A residual MLP."""

    def __init__(self, width: int = 7) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width + 1)
        self.down = nn.Linear(2 * width + 1, width, bias=False)
        self.scale = nn.Parameter(torch.ones(1))


class Layers(nn.Module):
    """Layers, a tied head and buffers that must not be cast."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(13, 7)
        self.layers = nn.ModuleList(Block() for _ in range(2))
        self.register_buffer("positions", torch.arange(5))
        self.register_buffer("mask", torch.tensor([True, False]))
        self.head = nn.Linear(7, 13, bias=False)
        self.head.weight = self.embed.weight


class Loop(nn.Module):
    """A layer that is used twice, under two names, and batch statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Block()
        self.again = self.first
        self.statistics = nn.BatchNorm1d(5)
        self.bilinear = nn.Bilinear(3, 4, 5)


class Flat(nn.Module):
    """Parameters with no module around them, one of them of no dimension's worth."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 5))
        self.bias = nn.Parameter(torch.zeros(5))
        self.table = nn.ParameterDict({"a": torch.randn(4), "b": torch.randn(2, 2)})
        self.kernel = nn.Conv1d(2, 3, 3)
