"""The architectures that people train most, each as a config of a few kilobytes: which names follow is what matters.

Every class of a model type that is listed is trained once, with ZeRO stage 1, 2 or 3 in turn.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

TEXT = {
    "vocab_size": 96,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""What most decoders and encoders call their sizes."""
GROUPED = TEXT | {"num_key_value_heads": 2}
HEADED = GROUPED | {"head_dim": 8}
EXPERTS = HEADED | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
BERT = TEXT | {"type_vocab_size": 2}
GPT2 = {"vocab_size": 96, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": 1,
        "eos_token_id": 2, "pad_token_id": 0}  # fmt: skip
T5 = {"vocab_size": 96, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4,
      "decoder_start_token_id": 0}  # fmt: skip
BART = {
    "vocab_size": 96,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
PICTURES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 8,
    "patch_size": 4,
}
SOUND = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "conv_dim": [8, 8],
    "conv_stride": [2, 2],
    "conv_kernel": [3, 3],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "codevector_dim": 8,
    "proj_codevector_dim": 8,
    "tdnn_dim": [8, 8],
    "tdnn_kernel": [3, 1],
    "tdnn_dilation": [1, 1],
    "xvector_output_dim": 8,
    "classifier_proj_size": 8,
}
LABELS = {"id2label": {"0": "no", "1": "yes", "2": "maybe"}, "label2id": {"no": 0, "yes": 1, "maybe": 2}}
SECTIONS = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}

MODELS: dict[str, tuple[dict[str, Any], str]] = {
    # decoders
    "llama": (GROUPED, "LlamaForCausalLM LlamaForSequenceClassification LlamaForTokenClassification"),
    "mistral": (GROUPED | {"sliding_window": 32}, "MistralForCausalLM MistralForSequenceClassification"),
    "mixtral": (GROUPED | {"num_local_experts": 4}, "MixtralForCausalLM"),
    "qwen2": (GROUPED, "Qwen2ForCausalLM Qwen2ForSequenceClassification Qwen2Model"),
    "qwen2_moe": (
        GROUPED
        | {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 8,
            "shared_expert_intermediate_size": 12,
        },
        "Qwen2MoeForCausalLM",
    ),
    "qwen3": (HEADED, "Qwen3ForCausalLM Qwen3ForSequenceClassification Qwen3Model"),
    "qwen3_moe": (EXPERTS, "Qwen3MoeForCausalLM"),
    "gemma": (HEADED, "GemmaForCausalLM"),
    "gemma2": (HEADED, "Gemma2ForCausalLM Gemma2ForSequenceClassification"),
    "gemma3_text": (HEADED, "Gemma3ForCausalLM"),
    "phi": (GROUPED, "PhiForCausalLM"),
    "phi3": (GROUPED, "Phi3ForCausalLM"),
    "deepseek_v3": (
        GROUPED
        | {
            "num_key_value_heads": 4,
            "moe_intermediate_size": 8,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 2,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "kv_lora_rank": 8,
            "q_lora_rank": 8,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 4,
            "v_head_dim": 4,
        },
        "DeepseekV3ForCausalLM",
    ),
    "gpt_oss": (HEADED | {"num_local_experts": 4, "num_experts_per_tok": 2}, "GptOssForCausalLM"),
    "cohere": (GROUPED, "CohereForCausalLM"),
    "cohere2": (GROUPED, "Cohere2ForCausalLM"),
    "olmo": (GROUPED, "OlmoForCausalLM"),
    "olmo2": (GROUPED, "Olmo2ForCausalLM"),
    "olmoe": (GROUPED | {"num_experts": 4, "num_experts_per_tok": 2}, "OlmoeForCausalLM"),
    "starcoder2": (GROUPED, "Starcoder2ForCausalLM"),
    "stablelm": (GROUPED, "StableLmForCausalLM"),
    "granite": (GROUPED, "GraniteForCausalLM"),
    "glm4": (HEADED, "Glm4ForCausalLM"),
    "smollm3": (GROUPED, "SmolLM3ForCausalLM"),
    "gpt2": (GPT2, "GPT2LMHeadModel GPT2ForSequenceClassification"),
    "gpt_neox": (TEXT, "GPTNeoXForCausalLM"),
    "gpt_bigcode": (GPT2, "GPTBigCodeForCausalLM"),
    "gptj": (GPT2 | {"rotary_dim": 4}, "GPTJForCausalLM"),
    "opt": (
        {key: TEXT[key] for key in TEXT if key != "intermediate_size"} | {"ffn_dim": 24, "word_embed_proj_dim": 16},
        "OPTForCausalLM",
    ),
    "bloom": (
        {"vocab_size": 96, "hidden_size": 16, "n_layer": 2, "n_head": 4, "pad_token_id": 0},
        "BloomForCausalLM",
    ),
    "falcon": (
        {"vocab_size": 96, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0},
        "FalconForCausalLM",
    ),
    # encoders
    "bert": (
        BERT,
        "BertModel BertForMaskedLM BertForSequenceClassification BertForTokenClassification BertForQuestionAnswering",
    ),
    "roberta": (BERT, "RobertaForMaskedLM RobertaForSequenceClassification RobertaForTokenClassification"),
    "xlm-roberta": (BERT, "XLMRobertaModel XLMRobertaForMaskedLM XLMRobertaForSequenceClassification"),
    "camembert": (BERT, "CamembertForSequenceClassification"),
    "distilbert": (
        {"vocab_size": 96, "dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 64},
        "DistilBertForSequenceClassification DistilBertForMaskedLM",
    ),
    "albert": (BERT | {"embedding_size": 8}, "AlbertForMaskedLM AlbertForSequenceClassification"),
    "electra": (BERT | {"embedding_size": 8}, "ElectraForPreTraining ElectraForSequenceClassification"),
    "deberta": (BERT, "DebertaForSequenceClassification"),
    "deberta-v2": (
        BERT
        | {
            "relative_attention": True,
            "max_relative_positions": -1,
            "position_buckets": 8,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
            "type_vocab_size": 0,
        },
        "DebertaV2ForMaskedLM DebertaV2ForSequenceClassification DebertaV2ForTokenClassification",
    ),
    "modernbert": (
        TEXT | {"cls_token_id": 1, "sep_token_id": 2},
        "ModernBertForMaskedLM ModernBertForSequenceClassification",
    ),
    "mpnet": (TEXT, "MPNetModel MPNetForSequenceClassification"),
    # encoders with decoders
    "t5": (T5, "T5ForConditionalGeneration T5EncoderModel"),
    "mt5": (T5, "MT5ForConditionalGeneration"),
    "bart": (BART, "BartForConditionalGeneration BartForSequenceClassification"),
    "mbart": (BART, "MBartForConditionalGeneration"),
    "pegasus": (BART, "PegasusForConditionalGeneration"),
    "m2m_100": (BART, "M2M100ForConditionalGeneration"),
    "whisper": (
        {key: BART[key] for key in BART if key != "max_position_embeddings"}
        | {"num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 16, "classifier_proj_size": 8},
        "WhisperForConditionalGeneration WhisperForAudioClassification",
    ),
    # pictures
    "vit": (PICTURES, "ViTForImageClassification ViTModel"),
    "deit": (PICTURES, "DeiTForImageClassification"),
    "dinov2": ({k: v for k, v in PICTURES.items() if k != "intermediate_size"}, "Dinov2ForImageClassification"),
    "vit_mae": (
        PICTURES
        | {
            "decoder_hidden_size": 16,
            "decoder_num_attention_heads": 4,
            "decoder_num_hidden_layers": 1,
            "decoder_intermediate_size": 24,
        },
        "ViTMAEForPreTraining",
    ),
    "clip": (
        {"projection_dim": 8, "text_config": TEXT | {"model_type": "clip_text_model"},
         "vision_config": PICTURES | {"model_type": "clip_vision_model"}},
        "CLIPModel",
    ),
    "siglip": (
        {"text_config": TEXT | {"model_type": "siglip_text_model", "projection_size": 16},
         "vision_config": PICTURES | {"model_type": "siglip_vision_model"}},
        "SiglipModel SiglipForImageClassification",
    ),
    # sound
    "wav2vec2": (SOUND, "Wav2Vec2ForCTC Wav2Vec2ForSequenceClassification Wav2Vec2ForPreTraining"),
    "hubert": (
        {key: SOUND[key] for key in SOUND if not re.search("vector|tdnn", key)},
        "HubertForCTC",
    ),
    # pictures and text
    "llava": (
        {
            "image_token_index": 95,
            "text_config": GROUPED | {"model_type": "llama"},
            "vision_config": PICTURES | {"model_type": "clip_vision_model"},
        },
        "LlavaForConditionalGeneration",
    ),
    "gemma3": (
        {
            "image_token_index": 95,
            "mm_tokens_per_image": 4,
            "text_config": HEADED | {"model_type": "gemma3_text"},
            "vision_config": PICTURES | {"model_type": "siglip_vision_model"},
        },
        "Gemma3ForConditionalGeneration",
    ),
    "qwen2_vl": (
        {
            "image_token_id": 90,
            "video_token_id": 91,
            "vision_start_token_id": 92,
            "vision_end_token_id": 93,
            "text_config": GROUPED | {"model_type": "qwen2_vl_text", "hidden_size": 32, "rope_parameters": SECTIONS},
            "vision_config": {"model_type": "qwen2_vl_vision", "depth": 2, "embed_dim": 16, "hidden_size": 32,
                              "num_heads": 4, "mlp_ratio": 2, "patch_size": 4},
        },
        "Qwen2VLForConditionalGeneration",
    ),
    "qwen2_5_vl": (
        {
            "image_token_id": 90,
            "video_token_id": 91,
            "vision_start_token_id": 92,
            "vision_end_token_id": 93,
            "text_config": GROUPED | {"model_type": "qwen2_5_vl_text", "hidden_size": 32, "rope_parameters": SECTIONS},
            "vision_config": {"model_type": "qwen2_5_vl_vision", "depth": 2, "hidden_size": 16, "intermediate_size": 24,
                              "num_heads": 4, "out_hidden_size": 32, "patch_size": 4, "fullatt_block_indexes": [1]},
        },
        "Qwen2_5_VLForConditionalGeneration",
    ),
}  # fmt: skip
"""model_type -> its config, and the classes that are trained."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What is trained and saved."""

    name: str
    """What transformers calls the class."""
    config: dict[str, Any]
    stage: int
    """Of ZeRO."""


def _all() -> dict[str, Architecture]:
    found: dict[str, Architecture] = {}
    for model_type, (config, classes) in MODELS.items():
        for name in classes.split():
            labels = LABELS if "Classification" in name else {}
            stage = 1 + len(found) % 3
            found[name] = Architecture(name=name, config={"model_type": model_type} | config | labels, stage=stage)
    return found


ARCHITECTURES = _all()
"""By the name of the class."""
