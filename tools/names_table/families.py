"""Which model types there are entries for, and what the tool cannot see of their fields for itself.

For each: `fields` (a kind in place of the one that follows from the annotation; None leaves the field out, and a config
that has it is then unknown; `["with default", kind, default]` adds one that the class does not declare), `requires`,
`derived`, `aliases` (other names of fields), `hints` (expressions worth trying), `inside` (for each config inside, its
model types), `classes` (those wanted, if not all).
"""

from __future__ import annotations

from typing import Any

LAYER_LIST = ["or", "null", ["list", ["int", 0, 5]]]
TOKENS = ["or", "null", ["list", ["int", 0, 1 << 20]]]
TOKEN = ["or", "null", ["int", -1, 1 << 20]]
PLAIN_ROPE = {"rope_parameters": ["or", "null", "@rope_plain", "@rope_linear"]}
PARTIAL_ROPE = {
    "rope_parameters": ["or", "null", "@rope_partial", "@rope_plain"],
    "rope_scaling": ["with default", "null"],
    "partial_rotary_factor": ["with default", ["in", 0.25, 0.4, 0.5, 0.75, 1.0]],
}
ONE_OF_EACH = [
    "or",
    "null",
    ["object", {"full_attention": "@rope_one", "sliding_attention": "@rope_one"}, {}],
]
SECTIONS = ["or", "null", "@rope_plain", "@rope_sections"]
TIES = {"tie_word_embeddings": ["with default", "bool"]}
HEAD = {"head_dim": ["with default", ["int", 2, 1024], None]}
"""Not in the config class, but read by the model if it is there."""
USUAL_HEAD = "head_dim is None or hidden_size == head_dim * num_attention_heads"
"""transformers 4.46 reads no head_dim of these models, and no pooler_output_size."""
USUAL_POOLER = "pooler_output_size is None or hidden_size == pooler_output_size"
SPARSE = "(i + 1) % decoder_sparse_step == 0 and not (mlp_only_layers is not None and i in mlp_only_layers)"
POOLED = "hidden_size if pooler_hidden_size is None else pooler_hidden_size"
RELATIVE = [
    "pos_att_type is not None and 'c2p' in pos_att_type",
    "pos_att_type is not None and 'p2c' in pos_att_type",
    "max_position_embeddings if max_relative_positions < 1 else max_relative_positions",
]
LEGACY_HEAD = ["in", True]
"""transformers 4.46 knows no other head for masked words, and makes that one whatever the config says."""
VISION = {"num_channels": ["int", 1, 16], "patch_size": ["int", 1, 64]}
CUBES = {
    "in_channels": ["int", 1, 16],
    "patch_size": ["int", 1, 64],
    "temporal_patch_size": ["int", 1, 8],
    "spatial_merge_size": ["int", 1, 8],
    "mlp_ratio": ["int", 1, 16],
    "rope_parameters": ["or", "null", ["object", {"rope_type": ["in", "axial"]}, {"rope_theta": ["number", 2.0, 1e9]}]],
    "rope_scaling": ["with default", "null"],
}
"""Patches of pictures that follow each other."""
CUBE = "vision_config.in_channels * vision_config.temporal_patch_size * vision_config.patch_size"
MARKS = {
    f"{what}_id": ["int", 0, 1 << 20]
    for what in ("image_token", "video_token", "vision_start_token", "vision_end_token")
}
PATCHES = "(image_size // patch_size) * (image_size // patch_size)"
INNER_PATCHES = (
    "(vision_config.image_size // vision_config.patch_size) * (vision_config.image_size // vision_config.patch_size)"
)
MASKS = {"mask_time_prob": ["number", 0.0, 1.0], "mask_feature_prob": ["number", 0.0, 1.0]}
_SEVERAL = ["list", ["int", 1, 1 << 20]]
CONVOLUTIONS = {
    "fields": {
        "vocab_size": ["int", 1, 1 << 20],
        "conv_dim": _SEVERAL,
        "conv_stride": ["list", ["int", 1, 8]],
        "conv_kernel": ["list", ["int", 1, 16]],
        "num_feat_extract_layers": ["with default", ["int", 1, 32], None],
        "num_conv_pos_embedding_groups": ["int", 1, 64],
        "num_codevector_groups": ["int", 1, 16],
        "num_codevectors_per_group": ["int", 1, 4096],  # transformers takes memory for these, on any device
        "codevector_dim": ["int", 1, 4096],
        "tdnn_dim": _SEVERAL,
        "tdnn_kernel": ["list", ["int", 1, 8]],
        "tdnn_dilation": ["list", ["int", 1, 4]],
        "feat_extract_norm": ["in", "group", "layer"],
        "ctc_loss_reduction": ["in", "sum", "mean"],
        "add_adapter": ["in", False],
        "adapter_attn_dim": "null",
    }
    | MASKS,
    "requires": [
        "len(conv_dim) > 0",
        "len(conv_stride) == len(conv_dim)",
        "len(conv_kernel) == len(conv_dim)",
        "num_feat_extract_layers is None or num_feat_extract_layers == len(conv_dim)",
        "len(tdnn_dim) > 0",
        "len(tdnn_kernel) == len(tdnn_dim)",
        "len(tdnn_dilation) == len(tdnn_dim)",
        "hidden_size % num_conv_pos_embedding_groups == 0",
    ],
    "hints": [
        "(1 if i == 0 else conv_dim[i - 1])",
        "(tdnn_dim[0] if i == 0 else tdnn_dim[i - 1])",
        "mask_time_prob > 0 or mask_feature_prob > 0",
    ],
}
PRETRAINED_SOUND = ("tdnn", "num_codevector", "codevector", "add_adapter", "adapter_attn_dim")
"""Fields that HuBERT has not."""
T5 = {
    "fields": {
        "feed_forward_proj": ["in", "relu", "gelu", "gated-gelu", "gated-silu", "gated-relu"],
        "dense_act_fn": ["with default", ["in", "relu", "gelu", "gelu_new", "silu"], None],
        "is_gated_act": ["with default", "bool", None],
        "scale_decoder_outputs": ["with default", "bool", None],
        "is_encoder_decoder": ["with default", "bool", True],
    }
    | TIES,
    "requires": [
        "is_gated_act is None or is_gated_act == (feed_forward_proj != 'relu' and feed_forward_proj != 'gelu')"
    ],
}
BART = {
    "fields": {"num_hidden_layers": ["with default", ["int", 1, 256], None]},
    "requires": ["num_hidden_layers is None or num_hidden_layers == encoder_layers"],
}

FAMILIES: dict[str, dict[str, Any]] = {
    # decoders
    "llama": {},
    "mistral": {},
    "mixtral": {"fields": PLAIN_ROPE, "requires": [USUAL_HEAD]},
    "qwen2": {"fields": HEAD, "requires": [USUAL_HEAD]},
    "qwen2_moe": {"fields": {"mlp_only_layers": LAYER_LIST} | HEAD, "hints": [SPARSE], "requires": [USUAL_HEAD]},
    "qwen3": {},
    "qwen3_moe": {
        "fields": {"mlp_only_layers": LAYER_LIST} | HEAD,
        "aliases": {"num_local_experts": "num_experts"},
        "hints": [SPARSE],
    },
    "gemma": {},
    "gemma2": {},
    "gemma3_text": {
        "fields": {
            "rope_parameters": ONE_OF_EACH,
            "rope_scaling": ["with default", ["or", "null", "@rope_linear"]],
            "rope_local_base_freq": ["with default", "@theta"],
            "use_bidirectional_attention": ["or", "null", ["in", False]],
            "sliding_window_pattern": ["with default", ["int", 1, 16]],
            "_sliding_window_pattern": ["with default", ["int", 1, 16]],
        }
    },
    "phi": {"fields": PARTIAL_ROPE},
    "phi3": {"fields": {"rope_parameters": ["or", "null", "@rope_plain"]}},
    "deepseek_v2": {},
    "deepseek_v3": {
        "fields": {
            "rope_parameters": ["or", "null", "@rope_plain", "@rope_linear", "@rope_yarn"],
            "qk_head_dim": ["with default", ["int", 1, 1024], None],
            "head_dim": ["with default", ["int", 1, 1024], None],
            "n_group": ["int", 1, 16],
            "topk_group": ["int", 1, 16],
            "first_k_dense_replace": ["int", 0, 16],
            "qk_rope_head_dim": ["int", 1, 1 << 20],
            "num_mtp_layers": ["int", 0, 4],
        },
        "aliases": {"num_nextn_predict_layers": "num_mtp_layers"},
        "requires": [
            "qk_rope_head_dim % 2 == 0",
            "qk_rope_head_dim > 2",
            "head_dim is None or head_dim == qk_rope_head_dim",
        ],
        "derived": {"qk_size": "qk_nope_head_dim + qk_rope_head_dim if qk_head_dim is None else qk_head_dim"},
    },
    "gpt_oss": {"fields": {"initial_context_length": ["with default", ["int", 1, 1 << 20]]}},
    "cohere": {},
    "cohere2": {"fields": HEAD},
    "olmo": {},
    "olmo2": {},
    "olmo3": {},
    "olmoe": {},
    "starcoder2": {},
    "stablelm": {"fields": PARTIAL_ROPE},
    "granite": {},
    "granitemoe": {},
    "glm": {"fields": PARTIAL_ROPE},
    "glm4": {"fields": PARTIAL_ROPE},
    "glm4_moe": {"fields": {"num_nextn_predict_layers": ["with default", ["int", 0, 4]]}},
    "smollm3": {
        "fields": {"no_rope_layers": ["or", "null", ["list", ["int", 0, 1]]]},
        "requires": ["no_rope_layers is None or len(no_rope_layers) == num_hidden_layers"],
    },
    "exaone4": {},
    "ernie4_5": {},
    "nemotron": {"fields": PARTIAL_ROPE},
    "persimmon": {"fields": PARTIAL_ROPE},
    "hunyuan_v1_dense": {},
    "seed_oss": {},
    "ministral": {},
    "gpt2": {},
    "gpt_neo": {"fields": {"attention_types": None, "attention_layers": None}},
    "gptj": {},
    "gpt_neox": {
        "fields": PARTIAL_ROPE
        | {
            "rotary_emb_base": ["with default", "@theta"],
            "rotary_pct": ["with default", ["in", 0.25, 0.4, 0.5, 0.75, 1.0]],
        }
    },
    "gpt_bigcode": {"fields": {"num_key_value_heads": ["with default", ["int", 1, 1 << 20], None]}},
    "opt": {},
    "bloom": {},
    "falcon": {
        "fields": {"num_ln_in_parallel_attn": ["or", "null", ["in", 1, 2]]}
        | dict.fromkeys(("alibi", "new_decoder_architecture", "multi_query", "parallel_attn", "bias"), "bool")
        | PLAIN_ROPE,
        "derived": {
            "fused_size": "(hidden_size // num_attention_heads) * (num_attention_heads + 2 * "
            "(num_attention_heads if num_kv_heads is None else num_kv_heads)) if new_decoder_architecture else "
            "(hidden_size + 2 * (hidden_size // num_attention_heads) if multi_query else 3 * hidden_size)",
            "has_two_norms": "num_ln_in_parallel_attn == 2 or "
            "(num_ln_in_parallel_attn is None and new_decoder_architecture)",
        },
    },
    "codegen": {},
    # encoders
    "bert": {},
    "roberta": {},
    "xlm-roberta": {},
    "xlm-roberta-xl": {},
    "camembert": {},
    "distilbert": {},
    "albert": {"fields": {"inner_group_num": ["int", 1, 16]}},
    "electra": {"fields": {"summary_type": ["in", "first", "last", "mean"]}},
    "deberta": {
        "fields": {
            "legacy": LEGACY_HEAD,
            "pos_att_type": ["or", "null", ["list", ["in", "c2p", "p2c"]], ["in", "c2p|p2c", "c2p", "none"]],
            "max_relative_positions": ["int", -1, 1024],
            "pooler_hidden_size": ["with default", ["int", 1, 1 << 20], None],
        },
        "hints": [*RELATIVE, POOLED],
    },
    "deberta-v2": {
        "fields": {
            "legacy": LEGACY_HEAD,
            "pos_att_type": ["or", "null", ["list", ["in", "c2p", "p2c"]], ["in", "c2p|p2c", "c2p", "none"]],
            "max_relative_positions": ["int", -1, 1024],
            "position_buckets": ["with default", ["int", -1, 512], -1],
            "share_att_key": ["with default", "bool", False],
            "conv_kernel_size": ["with default", ["int", 0, 9], 0],
            "conv_act": ["with default", ["in", "gelu", "tanh"], "tanh"],
            "norm_rel_ebd": ["with default", ["in", "none", "layer_norm"], "none"],
            "pooler_hidden_size": ["with default", ["int", 1, 1 << 20], None],
        },
        "hints": [*RELATIVE, POOLED, f"position_buckets if position_buckets > 0 else ({RELATIVE[-1]})"],
    },
    "modernbert": {
        "fields": {
            "classifier_pooling": ["in", "cls", "mean"],
            "sparse_pred_ignore_index": ["int", -100, 0],
            "rope_parameters": ONE_OF_EACH,
            "global_rope_theta": ["with default", "@theta"],
            "local_rope_theta": ["with default", "@theta"],
            "global_attn_every_n_layers": ["with default", ["int", 1, 16]],
        }
    },
    "mpnet": {"requires": ["vocab_size > 1", "max_position_embeddings > 2"]},
    "nomic_bert": {},
    "roformer": {},
    "ernie": {},
    "layoutlm": {},
    "esm": {
        "fields": {
            "position_embedding_type": ["in", "absolute", "rotary"],
            "esmfold_config": "null",
            "vocab_list": "null",
        }
    },
    # encoders with decoders
    "t5": T5,
    "mt5": T5,
    "umt5": T5,
    "bart": BART,
    "mbart": BART,
    "pegasus": BART,
    "m2m_100": BART | {"requires": [*BART["requires"], "d_model > 3", "max_position_embeddings > 2"]},
    "marian": BART,
    "blenderbot": BART,
    "whisper": {
        "fields": {"suppress_tokens": TOKENS, "begin_suppress_tokens": TOKENS} | MASKS | BART["fields"],
        "requires": BART["requires"],
    },
    # pictures
    "vit": {
        "fields": VISION | {"encoder_stride": ["int", 1, 64]},
        "hints": [PATCHES, "hidden_size if pooler_output_size is None else pooler_output_size"],
        "requires": [USUAL_POOLER],
    },
    "deit": {"fields": VISION | {"encoder_stride": ["int", 1, 64]}, "hints": [PATCHES], "requires": [USUAL_POOLER]},
    "vit_mae": {"fields": VISION, "hints": [PATCHES]},
    "dinov2": {"classes": ["Dinov2Model", "Dinov2ForImageClassification"], "hints": [PATCHES], "fields": VISION},
    "clip_text_model": {},
    "clip_vision_model": {"fields": VISION, "hints": [PATCHES]},
    "clip": {
        "fields": {"logit_scale_init_value": ["float", 0.0, 10.0]},
        "hints": [INNER_PATCHES],
        "inside": {"text_config": ["clip_text_model"], "vision_config": ["clip_vision_model"]},
    },
    "siglip_text_model": {"requires": ["projection_size is None or hidden_size == projection_size"]},
    "siglip_vision_model": {"fields": VISION, "hints": [PATCHES]},
    "siglip": {
        "hints": [INNER_PATCHES],
        "inside": {"text_config": ["siglip_text_model"], "vision_config": ["siglip_vision_model"]},
    },
    # sound
    "wav2vec2": CONVOLUTIONS | {"requires": [*CONVOLUTIONS["requires"], "codevector_dim % num_codevector_groups == 0"]},
    "hubert": {
        "fields": {k: kind for k, kind in CONVOLUTIONS["fields"].items() if not k.startswith(PRETRAINED_SOUND)}
        | {"conv_pos_batch_norm": ["in", False]},
        "requires": [text for text in CONVOLUTIONS["requires"] if "tdnn" not in text],
        "hints": CONVOLUTIONS["hints"],
    },
    "wavlm": CONVOLUTIONS,
    "audio-spectrogram-transformer": {},
    # pictures and text
    "llava": {
        "hints": [INNER_PATCHES],
        "fields": {"vision_feature_layer": ["in", -1, -2], "vision_feature_select_strategy": ["in", "default", "full"]},
        "inside": {
            "text_config": ["llama", "mistral"],
            "vision_config": ["clip_vision_model"],
        },
    },
    "paligemma": {
        "hints": [INNER_PATCHES],
        "inside": {"text_config": ["gemma", "gemma2"], "vision_config": ["siglip_vision_model"]},
    },
    "gemma3": {
        "hints": [INNER_PATCHES],
        "inside": {"text_config": ["gemma3_text"], "vision_config": ["siglip_vision_model"]},
    },
    "qwen2_vl_text": {"fields": {"rope_parameters": SECTIONS, "max_window_layers": ["int", 0, 256]}},
    "qwen2_vl_vision": {"fields": CUBES},
    "qwen2_vl": {
        "fields": MARKS,
        "hints": [CUBE],
        "inside": {"text_config": ["qwen2_vl_text"], "vision_config": ["qwen2_vl_vision"]},
    },
    "qwen2_5_vl_text": {"fields": {"rope_parameters": SECTIONS, "max_window_layers": ["int", 0, 256]}},
    "qwen2_5_vl_vision": {
        "fields": {key: CUBES[key] for key in CUBES if key != "mlp_ratio"}
        | {"fullatt_block_indexes": ["list", ["int", 0, 40]]}
    },
    "qwen2_5_vl": {
        "fields": MARKS,
        "hints": [CUBE],
        "inside": {"text_config": ["qwen2_5_vl_text"], "vision_config": ["qwen2_5_vl_vision"]},
    },
}
