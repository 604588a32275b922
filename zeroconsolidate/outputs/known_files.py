"""Name of a file next to a checkpoint -> whether it belongs to the model, to training, or to DeepSpeed.

The names come from transformers (`tokenization_utils_base.py`, `utils/__init__.py`, `utils/hub.py`), from
sentence-transformers (`modules.json` and the folders it names) and from checkpoints of both. Folders end in `/`.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from ..archive.model_files import MANIFEST_NAME, RESCUE_REPORT_NAME
from ..archive.names import SWAP_FOLDER, UNIVERSAL_FOLDER, parse

GROUPS: dict[str, tuple[str, ...]] = {
    "config": ("config.json",),
    "generation config": ("generation_config.json", "custom_generate/"),
    "tokenizer": (
        "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
        "chat_template.jinja", "chat_template.json", "additional_chat_templates/",
        "vocab.json", "merges.txt", "vocab.txt", "vocab.*", "vocab-*", "emoji.json", "spiece.model",
        "sentencepiece.*", "*.spm", "*.spiece", "tokenizer.model", "tokenizer.model.v*", "*.tiktoken",
        "tekken.json", "bpe.codes", "dict.txt", "normalizer.json", "entity_vocab.json", "byte_level_vocab.json",
    ),
    "processor": (
        "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json",
        "image_processor_config.json", "feature_extractor_config.json", "audio_tokenizer_config.json",
    ),
    "sentence-transformers": (
        "modules.json", "config_sentence_transformers.json", "sentence_*_config.json", "idf.json",
        "router_config.json", "[0-9]_*/", "[0-9][0-9]_*/",
    ),
    "documents": ("README.md", "LICENSE*", "NOTICE*"),
}  # fmt: skip
"""Copied byte for byte. If the checkpoint has no file of a group, the whole group is taken from the base model."""

_MADE_ANEW = ("model*.safetensors", "model*.safetensors.index.json", "pytorch_model*", "adapter_model.*",
               "adapter_config.json", "colbert_linear.pt", "sparse_linear.pt", "diffusion_pytorch_model*")  # fmt: skip

_LEFT_BEHIND = (
    "global_step*", "latest*", "zero_to_fp32.py", "zero_to_torch.py", "optimizer*", "scheduler*", "scaler*",
    "rng_state*", "random_states_*", "trainer_state.json", "training_args.bin", "checkpoint-*", "runs/", "wandb/",
    "events.out.*", "*.distcp", "*.onnx", "onnx/", "openvino/", "*.gguf", "*.h5", "*.msgpack", "*.ot", "*.ckpt",
    "dataloader*", "sampler*", "custom_checkpoint_*", ".*", MANIFEST_NAME, RESCUE_REPORT_NAME,
)  # fmt: skip


def group_of(name: str) -> str | None:
    """The group of what is copied that an entry belongs to."""
    return next((group for group, patterns in GROUPS.items() if _matches(name, patterns)), None)


def is_left_behind(name: str) -> bool:
    """Whether an entry belongs to training, or is made again."""
    return _matches(name, _LEFT_BEHIND) or _matches(name, _MADE_ANEW)


def is_of_deepspeed(name: str) -> bool:
    """Whether an entry of a tag's folder is what the checkpoint consists of."""
    return parse(name) is not None or name in (f"{UNIVERSAL_FOLDER}/", f"{SWAP_FOLDER}/")


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Patterns that end in `/` match folders only, others match files and (for what is left behind) folders."""
    return any(_fits(name, p) or (not p.endswith("/") and _fits(name, f"{p}/")) for p in patterns)


def _fits(name: str, pattern: str) -> bool:
    """`fnmatchcase`, which takes a while to understand a pattern it has not seen: few are worth asking it."""
    literal = pattern.partition("*")[0].partition("[")[0]
    return name.startswith(literal) and fnmatchcase(name, pattern)
