"""Keys that any config.json may have and that no names depend on, and kinds of values that many fields share."""

from __future__ import annotations

from typing import Any

_TOKEN = ["or", "null", ["int", -1, 1 << 20]]
_TOKENS = ["or", "null", ["list", ["int", 0, 1 << 20]]]
_POSITIVE = ["number", 1e-6, 1e9]
_FACTOR = ["number", 1.0, 1e4]
_THETA = ["number", 2.0, 1e9]
_LENGTH = ["int", 16, 1 << 20]


def _rope(name: str, required: dict[str, Any], optional: dict[str, Any]) -> list[Any]:
    """Rotary embeddings, whose kind a config says under the one name, the other, or both."""
    kind = ["in", name]
    more = {"rope_theta": _THETA, "partial_rotary_factor": ["in", 1.0]} | optional
    return [
        "or",
        ["object", {"rope_type": kind} | required, {"type": kind} | more],
        ["object", {"type": kind} | required, more],
    ]


KINDS: dict[str, Any] = {
    "rope_plain": ["or", ["object", {}, {"rope_theta": _THETA}], _rope("default", {}, {})],
    "rope_linear": _rope("linear", {"factor": _FACTOR}, {}),
    "rope_dynamic": _rope("dynamic", {"factor": _FACTOR}, {}),
    "rope_llama3": _rope(
        "llama3",
        {
            "factor": _FACTOR,
            "low_freq_factor": ["number", 1.0, 2.0],
            "high_freq_factor": ["number", 3.0, 64.0],
            "original_max_position_embeddings": _LENGTH,
        },
        {},
    ),
    "rope_yarn": _rope(
        "yarn",
        {"factor": _FACTOR, "original_max_position_embeddings": _LENGTH},
        {
            "beta_fast": ["number", 16.0, 64.0],
            "beta_slow": ["number", 1.0, 2.0],
            "attention_factor": ["float", 0.1, 2.0],
            "mscale": ["number", 0.1, 2.0],
            "mscale_all_dim": ["number", 0.1, 2.0],
            "truncate": "bool",
        },
    ),
    "rope_partial": [
        "object",
        {"partial_rotary_factor": ["in", 0.25, 0.4, 0.5, 0.75, 1.0]},
        {"rope_theta": _THETA, "rope_type": ["in", "default"]},
    ],
    "rope_one": ["or", "@rope_plain", "@rope_linear"],
    "rope_sections": [
        "or",
        [
            "object",
            {"type": ["in", "mrope", "default"], "mrope_section": ["list", ["int", 1, 64]]},
            {"rope_theta": _THETA},
        ],
        [
            "object",
            {"rope_type": ["in", "default"], "mrope_section": ["list", ["int", 1, 64]]},
            {"rope_theta": _THETA, "type": ["in", "mrope", "default"]},
        ],
    ],
    "dtype": ["in", "float32", "bfloat16", "float16"],
    "theta": _THETA,
}
ROPE = ["or", "null", "@rope_plain", "@rope_linear", "@rope_dynamic", "@rope_llama3", "@rope_yarn"]

_TASKS = ("summarization", "text-generation", *(f"translation_en_to_{to}" for to in ("de", "fr", "ro")))
_SIZE = ["int", 1, 1 << 20]

FIELDS: dict[str, Any] = {
    "architectures": ["list", "text"],
    "model_type": "text",
    "transformers_version": ["or", "null", "text"],
    "_name_or_path": "text",
    "dtype": ["or", "null", "@dtype"],
    "torch_dtype": ["or", "null", "@dtype"],
    "output_hidden_states": "bool",
    "output_attentions": ["in", False],
    "return_dict": "bool",
    "use_cache": "bool",
    "torchscript": ["in", False],
    "use_bfloat16": ["in", False],
    "tf_legacy_loss": ["in", False],
    "pruned_heads": ["object", {}, {}],
    "chunk_size_feed_forward": ["in", 0],
    "gradient_checkpointing": "bool",
    "cross_attention_hidden_size": "null",
    "is_encoder_decoder": ["in", False],
    "is_decoder": ["in", False],
    "add_cross_attention": ["in", False],
    "tie_encoder_decoder": ["in", False],
    "id2label": ["or", "null", "labels"],
    "label2id": ["or", "null", "map"],
    "num_labels": ["int", 1, 64],
    "finetuning_task": ["or", "null", "text"],
    "task_specific_params": ["or", "null", ["object", {}, dict.fromkeys(_TASKS, "map")]],
    "tokenizer_class": ["or", "null", "text"],
    "prefix": ["or", "null", "text"],
    "bos_token_id": _TOKEN,
    "eos_token_id": ["or", "null", ["int", -1, 1 << 20], ["list", ["int", 0, 1 << 20]]],
    "sep_token_id": _TOKEN,
    "mask_token_id": _TOKEN,
    "cls_token_id": _TOKEN,
    "decoder_start_token_id": _TOKEN,
    "_attn_implementation_autoset": "bool",
    # Once kept in a model's config, today in generation_config.json.
    "max_length": ["int", 1, 1 << 20],
    "min_length": ["int", 0, 1 << 20],
    "do_sample": "bool",
    "early_stopping": "bool",
    "num_beams": ["int", 1, 64],
    "num_beam_groups": ["in", 1],
    "diversity_penalty": ["in", 0.0],
    "temperature": _POSITIVE,
    "top_k": ["int", 1, 1000],
    "top_p": ["number", 0.01, 1.0],
    "typical_p": ["number", 0.01, 1.0],
    "repetition_penalty": _POSITIVE,
    "length_penalty": ["number", 0.0, 1e9],
    "no_repeat_ngram_size": ["int", 0, 64],
    "encoder_no_repeat_ngram_size": ["int", 0, 64],
    "bad_words_ids": "null",
    "num_return_sequences": ["int", 1, 64],
    "output_scores": "bool",
    "return_dict_in_generate": "bool",
    "forced_bos_token_id": _TOKEN,
    "forced_eos_token_id": _TOKEN,
    "remove_invalid_values": "bool",
    "exponential_decay_length_penalty": "null",
    "suppress_tokens": _TOKENS,
    "begin_suppress_tokens": _TOKENS,
    "forced_decoder_ids": ["or", "null", ["list", ["list", ["or", "null", ["int", 0, 1 << 20]]]]],
    "cache_implementation": ["or", "null", ["in", "hybrid"]],
    # In files on the hub. A class that reads one of them has it among its own fields.
    "position_embedding_type": ["in", "absolute"],
    "legacy": "bool",
    "output_past": "bool",
    "tie_weights_": ["in", True],
    "use_mrope": ["in", False],
    "max_window_layers": ["int", 0, 256],
    "attention_bias": ["in", False],
    "hidden_act": ["in", "gelu", "gelu_pytorch_tanh"],
    "hidden_activation": ["or", "null", ["in", "gelu_pytorch_tanh"]],
    "layer_norm_eps": ["float", 1e-12, 1e-3],
    "sliding_window_size": _SIZE,
    "experts_per_token": ["int", 1, 64],
    "n_ctx": _SIZE,
    "n_positions": _SIZE,
    "classif_dropout": ["number", 0.0, 1.0],
    "normalize_before": ["in", False],
    "normalize_embedding": ["in", True],
    "add_bias_logits": ["in", False],
    "add_final_layer_norm": ["in", False],
    "directionality": ["in", "bidi"],
    "pooler_fc_size": _SIZE,
    "pooler_num_attention_heads": _SIZE,
    "pooler_num_fc_layers": _SIZE,
    "pooler_size_per_head": _SIZE,
    "pooler_type": ["in", "first_token_transform"],
}
