"""The original models: random, tiny, saved the way a hub repository is, tokenizer included.

Widths are as small as the architectures allow (16), so that a whole checkpoint with its optimizer stays near 200 KB.
"""

from __future__ import annotations

import json
import random
import shutil
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from pathlib import Path

VOCAB = 288
# A RoPE base whose inverse frequencies (1 and 1/256 for head_dim 4) are exact in bfloat16. DeepSpeed casts the live
# module's buffers too; with any other base the live model would differ from every reloaded one, whoever wrote the file.
ROPE = {"rope_theta": 65536.0, "rope_type": "default"}
CAUSAL = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 128,
    "rope_parameters": ROPE,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 3,
}


def words(count: int = 300) -> list[str]:
    """Made-up words, the same each time."""
    rng = random.Random(0)
    return ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 8))) for _ in range(count)]


def sentences(count: int, seed: int = 0) -> list[str]:
    """`count` sentences over `words()`, of 3 to 9 words."""
    rng, vocabulary = random.Random(seed), words()
    return [" ".join(rng.choices(vocabulary, k=rng.randint(3, 9))) for _ in range(count)]


def make_all(root: Path) -> None:
    """Write every base under `root`, replacing what is there."""
    for name in ("llama", "qwen2", "mixtral", "qwen3_moe"):
        _fresh(root / name)
        make_causal(root / name, name)
    _fresh(root / "xlmr")
    make_xlmr(root / "xlmr")


def _fresh(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def make_causal(folder: Path, kind: str) -> None:
    """A causal LM with a byte-level BPE tokenizer and a chat template. `qwen2` ties its head to the embedding."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<s>", "</s>", "<pad>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=specials, initial_alphabet=alphabet)
    bpe.train_from_iterator(sentences(500), trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<|endoftext|>"
    )
    tokenizer.model_max_length = 128
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    tokenizer.save_pretrained(folder)
    # transformers 5 writes a class name that 4.x does not know; published models carry the old one.
    settings = folder / "tokenizer_config.json"
    settings.write_text(settings.read_text().replace("TokenizersBackend", "PreTrainedTokenizerFast"))

    configs = {
        "llama": lambda: transformers.LlamaConfig(**CAUSAL, tie_word_embeddings=False),
        "qwen2": lambda: transformers.Qwen2Config(**CAUSAL, tie_word_embeddings=True),
        "mixtral": lambda: transformers.MixtralConfig(
            **CAUSAL | {"intermediate_size": 8}, num_local_experts=4, num_experts_per_tok=2, tie_word_embeddings=False
        ),
        "qwen3_moe": lambda: transformers.Qwen3MoeConfig(
            **CAUSAL, moe_intermediate_size=8, num_experts=4, num_experts_per_tok=2, tie_word_embeddings=False
        ),
    }
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(configs[kind](), dtype=torch.float32)
    # Tokenizer and special tokens agree with what generate() needs, as in a published model.
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)


def make_xlmr(folder: Path) -> None:
    """An XLM-R encoder with a SentencePiece tokenizer and BGE-M3's two heads."""
    import sentencepiece
    from transformers import XLMRobertaConfig, XLMRobertaModel, XLMRobertaTokenizer

    model_file = folder / "sentencepiece.bpe.model"
    with model_file.open("wb") as out:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences(2000)),
            model_writer=out,
            vocab_size=VOCAB - 8,
            model_type="unigram",
            # The default normalizer embeds a table of 240 KB.
            normalization_rule_name="identity",
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=-1,
            minloglevel=2,
        )
    tokenizer = XLMRobertaTokenizer.from_pretrained(folder)
    tokenizer.model_max_length = 128
    tokenizer.save_pretrained(folder)
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=24,
        max_position_embeddings=130,
        type_vocab_size=1,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    XLMRobertaModel(config).save_pretrained(folder)
    colbert, sparse = torch.nn.Linear(16, 16), torch.nn.Linear(16, 1)
    # Token weights pass a ReLU: without a bias most would be zero, and prove nothing.
    torch.nn.init.constant_(sparse.bias, 3.0)
    for name, head in (("colbert_linear", colbert), ("sparse_linear", sparse)):
        torch.save(head.state_dict(), folder / f"{name}.pt")


def write_training_data(path: Path) -> None:
    """Query, positive and negative passages, the format FlagEmbedding's trainers read."""
    texts = sentences(96, seed=1)
    rows = [
        {"query": query, "pos": [positive], "neg": [negative]}
        for query, positive, negative in zip(texts[::3], texts[1::3], texts[2::3], strict=True)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
